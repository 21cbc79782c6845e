//! No fault makes a fetch tell what must not be told.

use super::*;

/// Everything that an error can be turned into.
fn told(error: &Error) -> String {
    let mut text = format!("{error}\n{error:?}\n{error:#?}\n{}\n", Chain(error));
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
        away("http://u:SECRET@127.0.0.1:1/?sign=SECRET"),
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
        request.deadline = tokio::time::Instant::now() + Duration::from_millis(900);
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
        text.push_str(&got.source.suspicion().unwrap_or_default());
        assert!(got.result.is_err(), "{n}");
        assert!(!text.contains("SECRET"), "{n}: {text}");
        assert!(
            !text.contains("a/b") && !text.contains("a%2Fb"),
            "{n}: {text}"
        );
    }
}

#[tokio::test]
async fn an_error_page_is_shown_without_the_secret() {
    let origin = Origin::start();
    let page = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message><Sign>SECRET</Sign></Error>";
    origin.serve("/f", Reply::page(403, "application/xml", page));
    let got = fetch(&fetcher(""), request(&origin.url("/f?sign=SECRET"), None)).await;
    let text = got.error().to_string();
    assert!(
        text.contains("Request has expired") && text.contains("<Sign>…</Sign>"),
        "{text}"
    );
    let want = format!(
        "fetch from {}: status 403, body starts with `",
        origin.address()
    );
    assert!(text.starts_with(&want), "{text}");
    assert!(
        text.ends_with("(first-byte: 0 bytes here, 1 attempt)"),
        "{text}"
    );
}
