# docker build -t holdover .
# The image holds one binary and the C library it runs on; no shell, no root.

FROM rust:1.95-slim-bookworm AS build
# zlib-ng, below Pingora, is built with cmake.
RUN apt-get update && apt-get install -y --no-install-recommends cmake make && rm -rf /var/lib/apt/lists/*
WORKDIR /holdover
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/holdover/target \
    cargo build --release --locked --bin holdover && cp target/release/holdover /usr/local/bin/holdover

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /usr/local/bin/holdover /usr/local/bin/holdover
# The proxy, and the admin listener (on loopback unless configured otherwise).
EXPOSE 8080 9901
HEALTHCHECK CMD ["/usr/local/bin/holdover", "healthcheck"]
# SIGTERM drains: running turns end, new ones are refused. Give `docker stop` the time that [drain] max allows.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/holdover"]
CMD ["run"]
