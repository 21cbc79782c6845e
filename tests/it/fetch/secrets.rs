//! No fault makes a fetch tell what must not be told.

use super::*;

/// Everything that an error can be turned into.
fn told(error: &Error) -> String {
    let mut text = format!(
        "{error}\n{error:?}\n{error:#?}\n{:?}\n{}\n",
        error.detail(),
        Chain(error)
    );
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        text.push_str(&format!("{e}\n{e:?}\n"));
        cause = e.source();
    }
    text
}

#[tokio::test]
async fn no_fault_tells_a_secret() {
    let (origin, data) = (Origin::start(), body(10_000));
    let said = "<Error>You asked /f?sign=SECRET&amp;k=a%2Fb%2Fc with a/b/c, S%45CRET2</Error>";
    let away = |to: &str| Reply::redirect(302, to);
    let replies = [
        Reply::page(403, "application/xml", said),
        Reply::page(503, "text/plain", said),
        Reply::page(200, "text/html", said),
        Reply::page(200, "text/SECRET", said),
        Reply::status(404),
        Reply::silent(),
        Reply::close(),
        Reply::reset(),
        Reply::raw("SECRET"),
        Reply::raw(format!(
            "HTTP/1.1 200 SECRET\r\nx: {}\r\n\r\n",
            "SECRET".repeat(200_000)
        )),
        Reply::file(&data).cut_at(10),
        Reply::file(&data).reset_at(10),
        Reply::file(&data).stall_at(10),
        Reply::file(&data).chunked(),
        Reply::file(&data).content_range("bytes SECRET"),
        away("http://169.254.169.254/?sign=SECRET"),
        away("http://u:SECRET@127.0.0.1:1024/?sign=SECRET"),
        away("http://no-such-host.invalid/?sign=SECRET"),
        away("ftp://h/?sign=SECRET"),
        away("/loop?sign=SECRET"),
        away("http://[SECRET"),
    ];
    origin.serve("/loop", away("/loop?sign=SECRET"));
    let url = origin
        .url("/f?sign=SECRET&k=a%2Fb%2Fc&z=SECRET2")
        .replace("http://", "http://me:SECRET@");
    let fetches = replies.into_iter().enumerate().map(|(n, reply)| {
        let path = format!("/f{n}");
        origin.serve(&path, reply);
        let mut request = request(&url.replace("/f?", &format!("{path}?")), Some(9000));
        request.deadline = Deadline::after(Duration::from_millis(900));
        assert!(!format!("{request:?}").contains("SECRET"));
        async move { fetch(&fetcher(""), request).await }
    });
    for (n, got) in futures_util::future::join_all(fetches)
        .await
        .into_iter()
        .enumerate()
    {
        let mut text: String = got
            .retried
            .iter()
            .chain(got.result.as_ref().err())
            .map(told)
            .collect();
        text.push_str(&got.restarts.join("\n"));
        text.push_str(&format!("{:?}", got.source.suspicion()));
        assert!(got.result.is_err(), "{n}");
        assert!(!text.contains("SECRET"), "{n}: {text}");
        assert!(
            !text.contains("a/b") && !text.contains("a%2Fb"),
            "{n}: {text}"
        );
    }
}

#[tokio::test]
async fn after_a_secret_was_sent_only_status_and_code_of_an_error_are_shown() {
    let origin = Origin::start();
    let page = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
    origin.serve("/f", Reply::page(403, "application/xml", page));
    let got = fetch(&fetcher(""), request(&origin.url("/f?sign=SECRET"), None)).await;
    let want = format!(
        "fetch from {}: status 403 (first-byte: 0 bytes here, 1 attempt)",
        origin.address()
    );
    assert_eq!(got.error().to_string(), want);
    assert_eq!(got.error().detail().as_deref(), Some("code `AccessDenied`"));
    let got = fetch(&fetcher(""), request(&origin.url("/f"), None)).await;
    let text = got.error().detail().expect("a detail");
    assert!(
        text.contains("body starts with `<Error><Code>AccessDenied</Code>"),
        "{text}"
    );
}

#[tokio::test]
async fn no_spelling_of_what_was_sent_is_told() {
    // 1. A node that sends a header of its own, for a URL with user information and a signature.
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    std::fs::write(&file, "Bearer HDRTOKEN-abc/def+1\n").expect("a token");
    let (origin, elsewhere) = (Origin::start(), Origin::start());
    let place = format!("http://{}", origin.address());
    let more = format!("headers.{place:?} = {{ x-token = {file:?} }}");
    let fetcher = fetcher(&more);
    let said = [
        "you sent Bearer HDRTOKEN-abc/def+1 ok",
        "HDRTOKEN-abc/def+1",
        "hdrtoken-abc/def+1",
        "Basic dXNlcjpQV1NFQ1JFVA==",
        "dXNlcjpQV1NFQ1JFVA==",
        "PWSECRET",
        r"TOP\/SECRET+SIG=",
        "TOP&#x2F;SECRET&#43;SIG=",
        "TOP%252FSECRET%252BSIG%253D",
        "top/secret+sig=",
        "starts with TOP/SEC",
    ];
    let told_of = |got: &Fetched| {
        let mut text: String = got
            .retried
            .iter()
            .chain(got.result.as_ref().err())
            .map(told)
            .collect();
        text.push_str(&format!("{:?}", got.source.suspicion()));
        text
    };
    for (n, what) in said.into_iter().enumerate() {
        // 2. Each spelling comes back as a page, as a page in place of the file, in a header, and from
        //    another host; and the secret itself as the name of one.
        let replies = [
            Reply::page(403, "text/plain", what),
            Reply::page(503, "text/plain", what),
            Reply::page(200, "text/html", what),
            Reply::page(200, &format!("text/html; x={what}"), "<html>"),
            Reply::redirect(302, &elsewhere.url(&format!("/{n}"))),
            Reply::redirect(302, "http://a-PWSECRET.invalid/"),
        ];
        elsewhere.serve(&format!("/{n}"), Reply::page(404, "text/plain", what));
        for (m, reply) in replies.into_iter().enumerate() {
            let path = format!("/{n}-{m}");
            origin.serve(&path, reply);
            let url = origin
                .url(&path)
                .replace("http://", "http://user:PWSECRET@");
            let url = format!("{url}?Expires=17&Signature=TOP%2FSECRET%2BSIG%3D");
            let mut request = request(&url, Some(9000));
            request.deadline = Deadline::after(Duration::from_millis(300));
            let got = fetch(&fetcher, request).await;
            assert!(got.result.is_err());
            let text = told_of(&got).to_lowercase();
            // 3. No spelling of any of it is told.
            for piece in [
                "hdrtoken", "dxnlcjpq", "pwsecret", "secret", "top/sec", "def+1",
            ] {
                assert!(!text.contains(piece), "{what} {m}: {text}");
            }
        }
    }
}
