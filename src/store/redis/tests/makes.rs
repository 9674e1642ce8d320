//! What must hold on servers of every make and version, see `docs/operations/redis.md`. The other tests run on the system's
//! Redis.

use super::*;

/// What all of them must do. The promises are judged side by side, under prefixes of their own.
macro_rules! makes {
    ($($name:ident: $make:ident;)*) => {
        $(mod $name {
            use super::*;

            #[tokio::test]
            async fn keeps_every_promise() {
                let server = server(Make::$make).await;
                let build = async |promise: &str, retain_after_end| {
                    node("here", Settings { retain_after_end, prefix: promise.into(), ..settings(&server) }).await
                };
                conformance!(together build);
            }

            #[tokio::test]
            async fn needs_the_documented_rights_only() {
                let server = server(Make::$make).await;
                the_rights_suffice(&server, settings(&server)).await;
            }

            #[tokio::test]
            async fn takes_ends_and_stops_when_it_is_full() {
                let server = server(Make::$make).await;
                faults::full_server_takes_ends_and_stops(&server).await;
            }
        })*
    };
}

makes! {
    redis_6: Redis6;
    redis_8: Redis8;
    valkey_9: Valkey9;
}

/// One that is what it is taken for.
async fn server(make: Make) -> Server {
    let server = Recipe::new(make).start();
    is_of(&server, make).await;
    server
}

async fn is_of(server: &Server, make: Make) {
    let info: String = server.command(&["INFO", "server"]).await;
    assert!(info.contains(make.version()), "not {}: {info}", make.version());
}

/// As on a single server, on three.
async fn a_cluster_keeps_every_promise(make: Make) {
    let cluster = Cluster::of_make(make, 3).await;
    is_of(&cluster.servers[0], make).await;
    let build = async |promise: &str, retain_after_end| {
        node("here", Settings { retain_after_end, prefix: promise.into(), ..cluster.settings() }).await
    };
    conformance!(together build);
}

#[tokio::test]
async fn a_cluster_of_redis_8_keeps_every_promise() {
    a_cluster_keeps_every_promise(Make::Redis8).await;
}

#[tokio::test]
async fn a_cluster_of_valkey_9_keeps_every_promise() {
    a_cluster_keeps_every_promise(Make::Valkey9).await;
}
