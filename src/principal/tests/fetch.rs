use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{
    super::{
        fetch::{Answer, Client, FetchError, Outage},
        responder::{CLOSE, Responder, reply},
    },
    *,
};

const LONG: Duration = Duration::from_secs(10);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

async fn get(client: &Client, server: &Responder) -> Result<Answer, FetchError> {
    client.get(&server.url("/x?y=z"), &HeaderMap::new(), LONG).await
}

#[tokio::test]
async fn an_answer_comes_whole_and_the_connection_is_used_again() {
    let server = Responder::start(|_| {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx: 1\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{chunked}")
    })
    .await;
    let client = Client::new(None).unwrap();
    let copied = headers(&[("authorization", "Bearer alice"), ("x", "1"), ("x", "2")]);
    for _ in 0..3 {
        let answer = client.get(&server.url("/x?y=z"), &copied, LONG).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"abc"[..]));
        assert_eq!(answer.headers["x"], "1");
    }
    assert_eq!(server.connections(), [0, 0, 0]);
    let head = server.heads()[0].to_ascii_lowercase();
    let host = server.url("/").authority().to_owned();
    for line in [&format!("host: {host}"), "authorization: bearer alice", "x: 1", "x: 2", "accept-encoding: identity"] {
        assert_eq!(head.lines().filter(|other| *other == line).count(), 1, "{line} in {head}");
    }
}

#[tokio::test]
async fn a_pooled_connection_that_the_server_closed_is_replaced() {
    // Answers the first request of a connection and hangs up on the second.
    let asked = std::sync::atomic::AtomicU32::new(0);
    let server = Responder::start(move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        1 => String::new(),
        _ => reply("200 OK", "", "whole"),
    })
    .await;
    let client = Client::new(None).unwrap();
    assert_eq!(get(&client, &server).await.unwrap().body, "whole");
    assert_eq!(get(&client, &server).await.unwrap().body, "whole");
    assert_eq!(server.connections(), [0, 0, 1]);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Responder::start(|_| reply("302 Found", "location: /elsewhere\r\n", "")).await;
    assert_eq!(get(&Client::new(None).unwrap(), &server).await.unwrap().status, 302);
    assert_eq!(server.heads().len(), 1);
}

#[tokio::test]
async fn what_is_not_a_whole_answer_is_an_error() {
    let client = Client::new(None).unwrap();
    let (whole, head) = (reply("200 OK", CLOSE, "abcd"), "HTTP/1.1 200 OK\r\n");
    assert!(get(&client, &Responder::start(move |_| whole.clone()).await).await.is_ok());
    for cut in [
        String::new(),
        format!("{head}{CLOSE}"),
        format!("{head}{CLOSE}content-length: 4\r\n\r\nabc"),
        format!("{head}{CLOSE}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        "SSH-2.0-OpenSSH_9.7\r\n\r\n".to_owned(),
    ] {
        let what = cut.clone();
        let server = Responder::start(move |_| cut.clone()).await;
        let answer = get(&client, &server).await;
        assert!(matches!(answer, Err(FetchError::Exchange(_))), "{what:?}: {answer:?}");
    }
    let long = Responder::start(|_| reply("200 OK", "", &"a".repeat(1024 * 1024 + 1))).await;
    assert!(matches!(get(&client, &long).await, Err(FetchError::TooLong)));
    let fits = Responder::start(|_| reply("200 OK", "", &"a".repeat(1024 * 1024))).await;
    assert_eq!(get(&client, &fits).await.unwrap().body.len(), 1024 * 1024);

    let endless = Responder::start(|_| "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab".to_owned()).await;
    let answer = client.get(&endless.url("/"), &HeaderMap::new(), Duration::from_millis(50)).await;
    assert!(matches!(answer, Err(FetchError::Timeout)));

    let gone = endless.url("/");
    endless.stop().await;
    let answer = client.get(&gone, &HeaderMap::new(), LONG).await;
    assert!(matches!(answer, Err(FetchError::Connect(_))), "{answer:?}");
}

/// Serves one connection under the fixtures' certificate, whether the client trusts it or not.
fn serve_tls_once() -> (u16, std::thread::JoinHandle<()>) {
    let certificate = CertificateDer::from_pem_file(fixture("tls_localhost.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("tls_localhost.key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
        let mut head = Vec::new();
        while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
            let mut piece = [0; 1024];
            match tls.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(read) => head.extend_from_slice(&piece[..read]),
            }
        }
        tls.write_all(reply("200 OK", CLOSE, "over TLS").as_bytes()).unwrap();
    };
    (port, std::thread::spawn(serve))
}

#[tokio::test]
async fn tls_is_spoken_to_those_whose_authority_is_trusted() {
    let trusting = Client::new(Some(&fixture("tls_ca.pem"))).unwrap();
    // The last is an address the certificate is not for.
    let cases = [
        (&trusting, "localhost", true),
        (&trusting, "127.0.0.1", true),
        (&Client::new(None).unwrap(), "localhost", false),
        (&Client::new(None).unwrap(), "127.0.0.1", false),
        (&trusting, "[::ffff:127.0.0.1]", false),
    ];
    for (client, host, trusted) in cases {
        let (port, server) = serve_tls_once();
        let url = format!("https://{host}:{port}/").parse().unwrap();
        match client.get(&url, &HeaderMap::new(), LONG).await {
            Ok(answer) => assert!(trusted && answer.body == "over TLS", "{host}"),
            Err(error) => assert!(!trusted && matches!(error, FetchError::Connect(_)), "{host}: {error}"),
        }
        server.join().unwrap();
    }
}

#[test]
fn unusable_authorities_are_told_at_start() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in
        [fixture("nowhere.pem"), empty.path().to_owned(), fixture("rsa_a.pem"), fixture("tls_localhost.key.pem")]
    {
        let error = Client::new(Some(&path)).err().expect("refused");
        assert!(matches!(error, SourceError::Authorities { .. }), "{path:?}: {error}");
    }
}

#[test]
fn an_outage_is_told_when_it_begins_and_when_it_ends() {
    let outage = Outage::default();
    assert!(!outage.ends(), "none has begun");
    for _ in 0..2 {
        assert_eq!([outage.begins(), outage.begins()], [true, false]);
        assert_eq!([outage.ends(), outage.ends()], [true, false]);
    }
}
