//! Where it may go and by which way: policy, redirects, proxy, mirrors, TLS, headers, local files.

use std::fs;
use std::path::Path;

use crate::support::origin::{certificate, tls_file};

use super::*;

fn fetcher_of(config: Config) -> Arc<Fetcher> {
    Fetcher::new(config).expect("a fetcher")
}

/// Lets the fetcher look at its files again.
async fn until_it_looks() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).expect("written");
    edgepush::sys::durable::rename(&temporary, path).expect("renamed");
}

#[tokio::test]
async fn a_denied_source_is_refused_before_anything_is_dialled() {
    let origin = Origin::start();
    origin.serve("/f", Reply::file(body(10)));
    let strict = fetcher_of(Config::default());
    for url in [
        origin.url("/f"),
        origin.url_at("localhost", "/f"),
        origin.url_at("[::1]", "/f"),
    ] {
        let got = fetch(&strict, request(&url, None)).await;
        assert_eq!(got.kind(), "source-denied");
        assert_eq!(got.error().kind().class.as_str(), "policy");
        let url = SourceUrl::parse(&url).expect("a url");
        assert_eq!(
            strict.check(&url).expect_err("denied").kind().name,
            "source-denied"
        );
    }
    assert_eq!(origin.connections(), 0);
    let named = fetcher("deny = [\"localhost\"]");
    let got = fetch(&named, request(&origin.url_at("localhost", "/f"), None)).await;
    assert_eq!(got.kind(), "source-denied");
    let got = fetch(&named, request(&origin.url("/f"), None)).await;
    got.result.expect("fetched");
}

#[tokio::test]
async fn a_name_is_refused_by_what_it_resolves_to() {
    let origin = Origin::start();
    origin.serve("/f", Reply::file(body(10)));
    // `allow` names an address, so the name is looked up; what it means is not that address.
    let fetcher = fetcher_of(Config {
        allow: vec!["[::1]".to_owned().try_into().expect("a rule")],
        deny: vec!["127.0.0.0/8".to_owned().try_into().expect("a rule")],
        ..config("")
    });
    let got = fetch(&fetcher, request(&origin.url_at("localhost", "/f"), None)).await;
    // Denied, unless the name also means ::1, where nobody listens.
    let denied = got.result.as_ref().err().map(|e| e.kind().name);
    assert!(
        matches!(denied, Some("source-denied" | "deadline")),
        "{denied:?}"
    );
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn redirects_are_followed_five_times_and_checked_each_time() {
    let (origin, data) = (Origin::start(), body(1000));
    for hop in 1..=6 {
        let status = [301, 302, 303, 307, 308, 302][hop - 1];
        origin.serve(
            &format!("/{hop}"),
            Reply::redirect(status, &format!("/{}?x=1", hop + 1)),
        );
    }
    origin.serve("/7", Reply::file(&data));
    let fetcher = fetcher("deny = [\"127.0.0.2\"]");
    let got = fetch(&fetcher, request(&origin.url("/2"), Some(1000))).await;
    got.result.expect("fetched");
    assert_eq!(got.bytes, data);
    let got = fetch(&fetcher, request(&origin.url("/1"), Some(1000))).await;
    assert_eq!(got.kind(), "redirect-refused");
    for (to, kind) in [
        (origin.url_at("127.0.0.2", "/7"), "source-denied"),
        (origin.url_at("2130706434", "/7"), "source-denied"),
        ("http://169.254.169.254/latest".to_owned(), "source-denied"),
        (
            "http://[::ffff:100.100.100.200]/".to_owned(),
            "source-denied",
        ),
        ("file:///etc/passwd".to_owned(), "redirect-refused"),
        ("ftp://127.0.0.1/".to_owned(), "redirect-refused"),
        ("http://".to_owned(), "redirect-refused"),
    ] {
        origin.serve("/away", Reply::redirect(302, &to));
        let before = origin.hits("/7").len();
        let got = fetch(&fetcher, request(&origin.url("/away"), None)).await;
        assert_eq!(got.kind(), kind, "{to}");
        assert_eq!(origin.hits("/7").len(), before);
    }
}

#[tokio::test]
async fn credentials_stay_with_their_host() {
    let dir = tempfile::tempdir().expect("a directory");
    let token = dir.path().join("token");
    write(&token, "Token t0ken\n");
    let (origin, other) = (Origin::start(), Origin::start());
    let far = other.url_at("localhost", "/far");
    origin.serve("/near", Reply::redirect(302, "/here"));
    origin.serve("/here", Reply::redirect(302, &far));
    other.serve("/far", Reply::file(body(10)));
    let place = format!("http://{}", origin.address());
    let more = format!("headers = {{ {place:?} = {{ x-token = {token:?} }} }}");
    let fetcher = fetcher(&more);
    let url = origin
        .url("/near")
        .replace("http://", "http://us%40er:pa%3Ass@");
    fetch(&fetcher, request(&url, None))
        .await
        .result
        .expect("fetched");
    for path in ["/near", "/here"] {
        let hit = &origin.hits(path)[0];
        // us@er:pa:ss
        assert_eq!(hit.header("authorization"), Some("Basic dXNAZXI6cGE6c3M="));
        assert_eq!(hit.header("x-token"), Some("Token t0ken"));
    }
    let hit = &other.hits("/far")[0];
    assert_eq!(
        (hit.header("authorization"), hit.header("x-token")),
        (None, None)
    );
    assert_eq!(hit.header("referer"), None);
    // The file is read again when it changes.
    write(&token, "Token new");
    until_it_looks().await;
    fetch(&fetcher, request(&url, None))
        .await
        .result
        .expect("fetched");
    assert_eq!(origin.hits("/near")[1].header("x-token"), Some("Token new"));
}

#[tokio::test]
async fn downloads_go_through_the_proxy() {
    let dir = tempfile::tempdir().expect("a directory");
    let (proxy, origin, data) = (Origin::start(), Origin::start(), body(100_000));
    proxy.serve("/f", Reply::file(&data).cut_at(50_000));
    origin.serve("/f", Reply::file(&data));
    let file = dir.path().join("proxy");
    write(
        &file,
        proxy.url("/").replace("http://", "http://user:pa55word@"),
    );
    let more = format!(
        "proxy = {{ downloads_file = {file:?}, no_proxy = [\"direct.example\", \"127.0.0.0/8\"] }}"
    );
    let fetcher = fetcher(&more);
    // The name is the proxy's to look up.
    let got = fetch(
        &fetcher,
        request("http://cdn.invalid/f?sign=SECRET", Some(data.len())),
    )
    .await;
    got.result.as_ref().expect("fetched");
    assert_eq!(got.bytes, data);
    let hits = proxy.hits("/f");
    assert_eq!(hits[0].target, "http://cdn.invalid/f?sign=SECRET");
    assert_eq!(
        hits[0].header("proxy-authorization"),
        Some("Basic dXNlcjpwYTU1d29yZA==")
    );
    assert_eq!(hits[1].range_start(), Some(50_000));
    let error = &got.retried[0];
    assert_eq!(error.context().via, Some(proxy.address().to_string()));
    // What is named in no_proxy goes directly.
    fetch(&fetcher, request(&origin.url("/f"), None))
        .await
        .result
        .expect("fetched");
    assert_eq!((origin.hits("/f").len(), proxy.hits("/f").len()), (1, 2));
    // The policy holds on this road too.
    for url in ["http://169.254.169.254/f", "http://localhost.:1/f"] {
        let strict = Config {
            allow: Vec::new(),
            ..config(&more)
        };
        let got = fetch(&fetcher_of(strict), request(url, None)).await;
        assert_eq!(got.kind(), "source-denied", "{url}");
    }
    assert_eq!(proxy.all_hits().len(), 2);
}

#[tokio::test]
async fn https_goes_through_the_proxy_in_a_tunnel() {
    let (proxy, origin, data) = (Origin::start(), Origin::start_tls("server"), body(100_000));
    origin.serve("/f", Reply::file(&data));
    let more = format!(
        "extra_ca = [{:?}]\nproxy = {{ downloads = {:?} }}",
        tls_file("ca.pem"),
        proxy.url("/")
    );
    let got = fetch(
        &fetcher(&more),
        request(&origin.url("/f"), Some(data.len())),
    )
    .await;
    got.result.expect("fetched");
    assert_eq!(got.bytes, data);
    assert_eq!(proxy.all_hits()[0].method, "CONNECT");
    assert_eq!(proxy.all_hits()[0].target, origin.address().to_string());
    // A proxy that is gone is told as such.
    let more = "proxy = { downloads = \"http://127.0.0.1:1\" }";
    let mut source = fetcher(more).open(request("http://cdn.invalid/f", None));
    match source.next().await.expect("an event") {
        Event::Retrying { error, .. } => {
            assert_eq!(error.kind().name, "connect-failed");
            assert_eq!(error.context().via.as_deref(), Some("127.0.0.1:1"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn mirrors_are_tried_in_order_before_the_origin() {
    let (first, second, origin) = (Origin::start(), Origin::start(), Origin::start());
    let data = body(400_000);
    // Mirrors are the configuration's word: the default policy would deny each of them.
    let mirrored = |path: &str| {
        let config = Config {
            allow: vec![
                format!("{}/32", origin.address().ip())
                    .try_into()
                    .expect("a rule"),
            ],
            deny: Vec::new(),
            ..config(&format!(
                "mirrors = [{{ prefix = {:?}, to = [{:?}, {:?}] }}]",
                origin.url("/"),
                first.url("/one/"),
                second.url("/two/")
            ))
        };
        (
            fetcher_of(config),
            request(&origin.url(path), Some(data.len())),
        )
    };
    // Nothing at the first, half of it at the second, with another ETag than the origin's.
    second.serve(
        "/two/f",
        Reply::file(&data)
            .etag("\"m\"")
            .cut_at(200_000)
            .cut_at(210_000),
    );
    origin.serve("/f", Reply::file(&data).etag("\"o\""));
    let (fetcher, wanted) = mirrored("/f?sign=S");
    let got = fetch(&fetcher, wanted.clone()).await;
    got.result.as_ref().expect("fetched");
    assert_eq!(got.bytes, data);
    assert!(got.restarts.is_empty());
    assert_eq!(first.hits("/one/f")[0].target, "/one/f?sign=S");
    assert_eq!(second.hits("/two/f").len(), 2);
    // Where it stopped, without the condition of another host.
    let hit = &origin.hits("/f")[0];
    assert_eq!(
        (hit.range_start(), hit.header("if-range")),
        (Some(210_000), None)
    );
    // A refetch may leave them out.
    let direct = Request {
        from_origin: true,
        ..wanted
    };
    fetch(&fetcher, direct).await.result.expect("fetched");
    let hits = origin.hits("/f");
    assert_eq!(hits[0].header("cache-control"), None);
    assert_eq!(hits[1].header("cache-control"), Some("no-cache"));
    assert_eq!((first.all_hits().len(), second.all_hits().len()), (1, 2));
    // Nowhere: the origin's answer counts.
    let (fetcher, nowhere) = mirrored("/none");
    let got = fetch(&fetcher, nowhere).await;
    assert_eq!(got.kind(), "http-404");
    assert_eq!(got.error().context().host, origin.address().to_string());
    assert_eq!(got.source.attempts(), 3);
}

#[tokio::test]
async fn a_mirror_on_this_machine_needs_no_permission() {
    let (mirror, data) = (Origin::start(), body(1000));
    mirror.serve("/m/f", Reply::file(&data));
    for host in ["127.0.0.1", "localhost"] {
        let to = mirror.url_at(host, "/m/");
        let config = Config {
            allow: Vec::new(),
            ..config(&format!(
                "mirrors = [{{ prefix = \"http://cdn.invalid/\", to = [{to:?}], origin = false }}]"
            ))
        };
        let got = fetch(
            &fetcher_of(config),
            request("http://cdn.invalid/f", Some(1000)),
        )
        .await;
        got.result.expect("fetched");
        assert_eq!(got.bytes, data);
    }
    // What a mirror redirects to is not the configuration's word.
    mirror.serve("/m/f", Reply::redirect(302, "/f"));
    let config = Config {
        allow: Vec::new(),
        ..config(&format!(
            "mirrors = [{{ prefix = \"http://cdn.invalid/\", to = [{:?}], origin = false }}]",
            mirror.url("/m/")
        ))
    };
    let got = fetch(
        &fetcher_of(config),
        request("http://cdn.invalid/f", Some(1000)),
    )
    .await;
    assert_eq!(got.kind(), "source-denied");
}

#[tokio::test]
async fn certificates_are_checked() {
    let (good, expired) = (Origin::start_tls("server"), Origin::start_tls("expired"));
    // A certificate of the right authority for no server at all.
    let (other, plain) = (Origin::start_tls("client1"), Origin::start());
    let data = body(1000);
    for origin in [&good, &expired] {
        origin.serve("/f", Reply::file(&data));
    }
    let trusting = fetcher(&format!("extra_ca = [{:?}]", tls_file("ca.pem")));
    let got = fetch(&trusting, request(&good.url("/f"), Some(1000))).await;
    got.result.expect("fetched");
    assert_eq!(got.bytes, data);
    // Unknown authority, wrong name: final. Out of date: a clock may be wrong, so it is tried again.
    let got = fetch(&fetcher(""), request(&good.url("/f"), None)).await;
    assert_eq!(got.kind(), "tls-certificate");
    assert_eq!(got.source.attempts(), 1);
    let got = fetch(&trusting, request(&other.url("/f"), None)).await;
    assert_eq!(got.kind(), "tls-certificate");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let not_tls = format!("https://{}/f", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    for (url, kind) in [
        (expired.url("/f"), "tls-certificate-time"),
        (not_tls, "tls-failed"),
    ] {
        let mut source = trusting.open(request(&url, None));
        match source.next().await.expect("an event") {
            Event::Retrying { error, .. } => {
                assert_eq!(error.kind().name, kind, "{error:?}");
                assert_eq!(error.context().phase, Phase::Tls);
            }
            other => panic!("{other:?}"),
        }
    }
    // Downgrades are not followed.
    good.serve("/down", Reply::redirect(302, &plain.url("/f")));
    let got = fetch(&trusting, request(&good.url("/down"), None)).await;
    assert_eq!(got.kind(), "redirect-refused");
}

#[tokio::test]
async fn a_rotated_client_certificate_is_taken_and_half_a_pair_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cert, key) = (dir.path().join("node.pem"), dir.path().join("node.key"));
    let take = |from: &str, to: &Path| write(to, fs::read(tls_file(from)).expect("read"));
    take("client1.pem", &cert);
    take("client1.key", &key);
    let (origin, data, gate) = (Origin::start_mutual_tls("server"), body(1000), Gate::new());
    origin.serve("/f", Reply::file(&data).with("connection", "close"));
    origin.serve("/long", Reply::file(&data).hold_at(500, &gate));
    let config = config(&format!(
        "extra_ca = [{:?}]\nclient_certificate = {cert:?}\nclient_key = {key:?}",
        tls_file("ca.pem")
    ));
    let fetcher = fetcher_of(Config {
        stall: edgepush::fetch::config::Stall {
            rate: 1,
            window: Duration::from_secs(60),
        },
        ..config
    });
    let ask = || async {
        let got = fetch(&fetcher, request(&origin.url("/f"), Some(1000))).await;
        got.result.expect("fetched");
        origin.hits("/f").pop().and_then(|hit| hit.certificate)
    };
    let shown = |file: &str| Some(certificate(file).to_vec());
    assert_eq!(ask().await, shown("client1.pem"));
    let mut running = fetcher.open(request(&origin.url("/long"), Some(1000)));
    assert!(matches!(running.next().await, Ok(Event::Bytes(_))));
    // Half of the new pair: the old one stays in use.
    take("client2.pem", &cert);
    until_it_looks().await;
    assert_eq!(ask().await, shown("client1.pem"));
    take("client2.key", &key);
    until_it_looks().await;
    assert_eq!(ask().await, shown("client2.pem"));
    gate.open();
    run(running, Vec::new()).await.result.expect("fetched");
    assert_eq!(origin.hits("/long").len(), 1);
}

#[tokio::test]
async fn a_refused_reload_changes_nothing() {
    let origin = Origin::start();
    origin.serve("/f", Reply::file(body(10)));
    let fetcher = fetcher("");
    let bad = config("extra_ca = [\"/nowhere\"]\ndeny = [\"127.0.0.1\"]");
    assert!(fetcher.reload(bad).is_err());
    let url = SourceUrl::parse(&origin.url("/f")).expect("a url");
    fetcher.check(&url).expect("allowed");
    fetcher
        .reload(config("deny = [\"127.0.0.1\"]"))
        .expect("reloaded");
    fetcher.check(&url).expect_err("denied");
}

#[tokio::test]
async fn a_local_file_is_read_when_the_operator_says_so() {
    let (dir, data) = (tempfile::tempdir().expect("a directory"), body(3_000_000));
    fs::write(dir.path().join("a.zip"), &data).expect("written");
    let local = |name: &str, size: Option<usize>| Request {
        url: SourceUrl::parse_local(name, dir.path()).expect("a url"),
        allow_local: true,
        ..request("http://h/", size)
    };
    let fetcher = fetcher("");
    let got = fetch(&fetcher, local("a.zip", Some(data.len()))).await;
    got.result.expect("fetched");
    assert_eq!(got.bytes, data);
    let mut rest = local("a.zip", None);
    rest.offset = 2_500_000;
    let got = run(fetcher.open(rest), data[..2_500_000].to_vec()).await;
    got.result.expect("fetched");
    assert_eq!(got.bytes, data);
    let from_outside = Request {
        allow_local: false,
        ..local("a.zip", None)
    };
    assert_eq!(fetch(&fetcher, from_outside).await.kind(), "source-denied");
    assert_eq!(
        fetch(&fetcher, local("none.zip", None)).await.kind(),
        "local-file"
    );
    assert_eq!(fetch(&fetcher, local(".", None)).await.kind(), "local-file");
    assert_eq!(
        fetch(&fetcher, local("a.zip", Some(5))).await.kind(),
        "wrong-length"
    );
}
