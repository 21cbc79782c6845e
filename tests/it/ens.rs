//! The ENS endpoint over its sockets: who may ask, in which order that is judged, and what is answered.

use edgepush::datafile::Key;
use edgepush::job::Outcome;
use serde_json::{Value, json};

use crate::support::ens::{Ens, Scheme};
use crate::support::http::{self, Answer};
use crate::support::node::encode;
use crate::support::served::{ID, SECRET, Served, failed, key};

const BOTH: [Scheme; 2] = [Scheme::Header, Scheme::Parameter];
const PUSH: &str = "PushApplicationData";
const DESCRIBE: &str = "DescribeDataPushResult";
const DOWNLOAD: &str = "DescribeDataDownloadURL";

fn item(name: &str, version: &str) -> Value {
    json!({"name": name, "version": version, "size": 7, "archiveType": "zip", "md5": "", "url": "http://h/x?sig=s3cret", "timeout": 9})
}

fn data(items: &[Value]) -> String {
    serde_json::to_string(items).unwrap()
}

/// Checks that an answer is an error in the contract's shape, and returns (status, code).
#[track_caller]
fn refused(answer: &Answer) -> (u16, String) {
    let body = answer.json();
    for field in ["RequestId", "HostId", "Code", "Message"] {
        assert!(body[field].is_string(), "{field} in {body}");
    }
    let id = body["RequestId"].as_str().unwrap();
    assert_eq!((id.len(), id), (36, id.to_uppercase().as_str()));
    assert!(
        answer.head.contains(&format!("x-acs-request-id: {id}")),
        "{}",
        answer.head
    );
    assert!(
        answer
            .head
            .contains("content-type: application/json;charset=utf-8")
    );
    (answer.status, body["Code"].as_str().unwrap().to_owned())
}

#[track_caller]
fn taken(answer: &Answer) -> Value {
    let body = answer.json();
    assert_eq!(answer.status, 200, "{body}");
    body
}

/// The result codes of a push.
#[track_caller]
fn codes(answer: &Answer) -> Vec<u64> {
    let body = taken(answer);
    let results = body["PushResults"]["PushResult"].as_array().unwrap();
    results
        .iter()
        .map(|r| {
            assert!(!r["ResultDescrip"].as_str().unwrap().is_empty());
            r["ResultCode"].as_u64().unwrap()
        })
        .collect()
}

#[track_caller]
fn names(answer: &Answer) -> Vec<String> {
    let body = taken(answer);
    let rows = body["PushResults"]["PushResult"].as_array().unwrap();
    rows.iter()
        .map(|r| r["Name"].as_str().unwrap().to_owned())
        .collect()
}

fn push(ens: &Ens, items: &[Value]) -> Answer {
    ens.call(
        PUSH,
        &[
            ("AppId", "app-1"),
            ("Data", &data(items)),
            ("PushStrategy", ""),
        ],
    )
}

#[test]
fn a_push_goes_its_way_and_is_described() {
    let served = Served::new("", "region = \"cn-wuxi-5\"");
    for scheme in BOTH {
        let ens = served.ens(scheme);
        let file = key("app-1", &format!("d/{scheme:?}+ü"), "1.0");
        let one = item(file.name.as_str(), "1.0");
        let bad = item("b", "1.0,1");
        assert_eq!(codes(&push(&ens, &[one.clone(), bad])), [0, 300]);
        assert_eq!(codes(&push(&ens, std::slice::from_ref(&one))), [200]);
        let describe = || {
            taken(&ens.call(
                DESCRIBE,
                &[("AppId", "app-1"), ("DataNames", file.name.as_str())],
            ))
        };
        let body = describe();
        assert_eq!(
            (&body["TotalCount"], &body["PageNumber"], &body["PageSize"]),
            (&json!(1), &json!(1), &json!(1))
        );
        let stat = &body["PushResults"]["PushResult"][0]["StatusStatS"]["StatusStat"][0];
        assert_eq!(
            (&stat["Status"], &stat["RegionIdCount"]),
            (&json!("PUSHING"), &json!(1))
        );
        assert_eq!(stat["RegionIds"]["RegionId"][0]["RegionId"], "cn-wuxi-5");
        served.publish(&file, b"archive");
        assert_eq!(codes(&push(&ens, &[one])), [100]);
        let body = describe();
        assert_eq!(
            body["PushResults"]["PushResult"][0]["StatusStatS"]["StatusStat"][0]["Status"],
            "SUCCESS"
        );
        assert_eq!(
            codes(&push(
                &ens,
                &[
                    json!({"name": file.name, "version": "1.0", "size": 8, "archiveType": "zip", "url": "http://h/y"})
                ]
            )),
            [300]
        );
    }
}

#[test]
fn a_failed_file_says_why_and_is_pushed_again() {
    let served = Served::new("", "");
    let ens = served.ens(Scheme::Header);
    let file = key("app-1", "f", "1");
    assert_eq!(codes(&push(&ens, &[item("f", "1")])), [0]);
    served.end(served.job(&file), failed("match md5: expected a, got b"));
    let body = taken(&ens.call(DESCRIBE, &[("AppId", "app-1")]));
    let stat = &body["PushResults"]["PushResult"][0]["StatusStatS"]["StatusStat"][0];
    assert_eq!(stat["Status"], "FAILED");
    assert_eq!(
        stat["RegionIds"]["RegionId"][0]["StatusDescrip"],
        "digest-mismatch in verify: match md5: expected a, got b"
    );
    assert_eq!(codes(&push(&ens, &[item("f", "1")])), [0]);
    served.end(served.job(&file), Outcome::Canceled);
    let body = taken(&ens.call(DESCRIBE, &[("AppId", "app-1")]));
    let stat = &body["PushResults"]["PushResult"][0]["StatusStatS"]["StatusStat"][0];
    assert_eq!(stat["Status"], "FAILED");
}

#[test]
fn parameters_come_in_query_or_form_and_as_get_or_post() {
    let served = Served::new("", "");
    for scheme in BOTH {
        let ens = served.ens(scheme);
        let name = format!("form {scheme:?}");
        let text = data(&[item(&name, "1")]);
        let send = |method: &str, query: &[(&str, &str)], form: &[(&str, &str)]| {
            ens.sign(method, PUSH, query, form).send(served.address)
        };
        assert_eq!(
            codes(&send("POST", &[("AppId", "app-1")], &[("Data", &text)])),
            [0]
        );
        assert_eq!(
            codes(&send(
                "POST",
                &[],
                &[("Data", &text), ("AppId", "app-1"), ("Unknown", "")]
            )),
            [200]
        );
        assert_eq!(
            codes(&send("GET", &[("AppId", "app-1"), ("Data", &text)], &[])),
            [200]
        );
        let twice = send(
            "POST",
            &[("AppId", "app-1"), ("Data", &text)],
            &[("AppId", "app-1")],
        );
        assert_eq!(refused(&twice), (400, "InvalidParameter.AppId".to_owned()));
        let put = send("PUT", &[("AppId", "app-1"), ("Data", &text)], &[]);
        assert_eq!(refused(&put), (400, "UnsupportedHTTPMethod".to_owned()));
    }
}

#[test]
fn a_data_of_eight_mebibytes_is_taken_in_a_form() {
    let served = Served::new("", "");
    for scheme in BOTH {
        let mut one = item(&format!("big {scheme:?}"), "1");
        one["padding"] = json!("x".repeat(8_300_000));
        let text = data(&[one]);
        assert!(text.len() > 8_300_000);
        let ens = served.ens(scheme);
        let answer = ens
            .sign("POST", PUSH, &[("AppId", "app-1")], &[("Data", &text)])
            .send(served.address);
        assert_eq!(codes(&answer), [0]);
    }
}

#[test]
fn who_asks_is_judged_in_the_contracts_order() {
    let served = Served::new("", "");
    for scheme in BOTH {
        let ens = served.ens(scheme);
        let wrong = |change: &dyn Fn(&mut Ens)| {
            let mut ens = ens.clone();
            change(&mut ens);
            refused(&ens.call(DESCRIBE, &[("AppId", "app-1")]))
        };
        let four = |code: &str| (400, code.to_owned());
        assert_eq!(
            wrong(&|e| e.id = "nobody".to_owned()),
            (404, "InvalidAccessKeyId.NotFound".to_owned())
        );
        assert_eq!(
            wrong(&|e| e.secret = "x".to_owned()),
            four("SignatureDoesNotMatch")
        );
        assert_eq!(wrong(&|e| e.skew = -960), four("InvalidTimeStamp.Expired"));
        assert_eq!(wrong(&|e| e.skew = 960), four("InvalidTimeStamp.Expired"));
        // A wrong signature is told before a wrong time: otherwise forgers could probe the clock.
        assert_eq!(
            wrong(&|e| (e.skew, e.secret) = (960, "x".to_owned())),
            four("SignatureDoesNotMatch")
        );
        for skew in [-840, 840] {
            let mut ens = ens.clone();
            ens.skew = skew;
            taken(&ens.call(DESCRIBE, &[("AppId", "app-1")]));
        }
        assert_eq!(
            refused(&ens.call("PushNothing", &[])),
            (404, "InvalidAction.NotFound".to_owned())
        );
        assert_eq!(refused(&ens.call(DESCRIBE, &[])), four("MissingAppId"));
    }
    assert_eq!(
        refused(&served.tcp("GET", "/", &[])),
        (404, "InvalidAction.NotFound".to_owned())
    );
    let unsigned = format!("/?Action={DESCRIBE}&Version=2017-11-10&AppId=app-1");
    assert_eq!(
        refused(&served.tcp("GET", &unsigned, &[])),
        (400, "MissingAccessKeyId".to_owned())
    );
    assert_eq!(
        refused(&served.tcp("GET", "/other", &[])),
        (404, "InvalidAction.NotFound".to_owned())
    );
}

#[test]
fn a_nonce_is_taken_once_and_only_by_its_owner_also_after_a_restart() {
    let mut served = Served::new("", "");
    for scheme in BOTH {
        // 1. A request is on the wire. 2. Three forgers send it bent, before it arrives.
        let real = served
            .ens(scheme)
            .sign("POST", DESCRIBE, &[("AppId", "app-1")], &[]);
        for _ in 0..3 {
            let mut forged = real.clone();
            forged.target = forged.target.replace("app-1", "app-2");
            assert_eq!(
                refused(&forged.send(served.address)).1,
                "SignatureDoesNotMatch"
            );
        }
        // 3. The real one arrives, and 4. is sent again by someone who has listened.
        taken(&real.send(served.address));
        assert_eq!(refused(&real.send(served.address)).1, "SignatureNonceUsed");
        // 5. The agent is started again: it still knows. The Host is signed, so it must be the old one.
        let old = served.address.to_string();
        served = served.restart("", "");
        let mut replay = real.clone();
        replay.headers.push(("X-Old-Host".to_owned(), old.clone()));
        let answer = send_with_host(&replay, &served, &old);
        assert_eq!(refused(&answer).1, "SignatureNonceUsed");
    }
}

#[test]
fn a_replay_takes_no_rate_and_a_refused_call_no_nonce() {
    let served = Served::new("rate = { per_second = 1, burst = 2 }", "");
    let sign = |parameters: &[(&str, &str)]| {
        let ens = served.ens(Scheme::Header);
        ens.sign("POST", DESCRIBE, parameters, &[])
    };
    let real = sign(&[("AppId", "app-1")]);
    taken(&real.send(served.address));
    for _ in 0..10 {
        assert_eq!(refused(&real.send(served.address)).1, "SignatureNonceUsed");
    }
    let bad = sign(&[("AppId", "app-1"), ("PageSize", "0")]);
    let refusal = refused(&bad.send(served.address));
    assert_eq!(refusal.1, "InvalidParameter.PageSize");
    // The second time it may be throttled; a nonce on record would be found before.
    let again = refused(&bad.send(served.address)).1;
    assert!(["InvalidParameter.PageSize", "Throttling.User"].contains(&again.as_str()));
}

/// Sends a request with a Host that is not where it goes.
fn send_with_host(signed: &crate::support::ens::Signed, served: &Served, host: &str) -> Answer {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(served.address).unwrap();
    let headers: String = signed
        .headers
        .iter()
        .map(|(n, v)| format!("{n}: {v}\r\n"))
        .collect();
    let request = format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{}",
        signed.method,
        signed.target,
        signed.body.len(),
        signed.body
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).unwrap();
    http::parse(&raw).unwrap()
}

#[test]
fn a_key_may_do_what_its_configuration_says_and_is_reloaded() {
    let more = |enabled: &str| {
        format!(
            "[[access_keys]]\nid = \"few\"\nsecret_file = SECRET_FILE\napps = [\"app-1\"]\nactions = [\"{DESCRIBE}\"]\nenabled = {enabled}\n"
        )
    };
    let served = Served::new(&more("true"), "");
    for scheme in BOTH {
        let few = Ens::new(served.address, "few", SECRET, scheme);
        taken(&few.call(DESCRIBE, &[("AppId", "app-1")]));
        for (action, app) in [(DESCRIBE, "app-2"), (PUSH, "app-1")] {
            let answer = few.call(action, &[("AppId", app), ("Data", "[]")]);
            assert_eq!(refused(&answer), (400, "NoPermission".to_owned()));
        }
        served.reload(&more("false"));
        let answer = few.call(DESCRIBE, &[("AppId", "app-1")]);
        assert_eq!(
            refused(&answer),
            (400, "InvalidAccessKeyId.Inactive".to_owned())
        );
        served.reload("");
        let answer = few.call(DESCRIBE, &[("AppId", "app-1")]);
        assert_eq!(
            refused(&answer),
            (404, "InvalidAccessKeyId.NotFound".to_owned())
        );
        served.reload(&more("true"));
        taken(&few.call(DESCRIBE, &[("AppId", "app-1")]));
    }
}

#[test]
fn a_key_that_asks_too_often_is_told_how_long_to_wait() {
    let served = Served::new("rate = { per_second = 1, burst = 2 }", "");
    let ens = served.ens(Scheme::Header);
    for _ in 0..2 {
        taken(&ens.call(DESCRIBE, &[("AppId", "app-1")]));
    }
    let answer = ens.call(DESCRIBE, &[("AppId", "app-1")]);
    assert_eq!(refused(&answer), (400, "Throttling.User".to_owned()));
    let wait = answer
        .head
        .lines()
        .find_map(|l| l.strip_prefix("x-acs-retry-after: "));
    let wait: u64 = wait.unwrap().parse().unwrap();
    assert!((1..=1000).contains(&wait), "{wait}");
    // What a forger sends does not count against the key.
    let mut forger = ens.clone();
    forger.secret = "x".to_owned();
    assert_eq!(
        refused(&forger.call(DESCRIBE, &[("AppId", "app-1")])).1,
        "SignatureDoesNotMatch"
    );
}

#[test]
fn unsigned_calls_are_taken_only_where_the_configuration_or_the_socket_allows() {
    let unsigned = format!(
        "/?Action={PUSH}&Version=2017-11-10&AppId=app-1&Data={}",
        encode(&data(&[item("n", "1")]))
    );
    let served = Served::new("", "");
    assert_eq!(
        refused(&served.tcp("POST", &unsigned, &[])).1,
        "MissingAccessKeyId"
    );
    assert_eq!(codes(&served.unix("POST", &unsigned, None)), [0]);
    let served = Served::new("insecure_tcp_intake = true", "");
    assert_eq!(codes(&served.tcp("POST", &unsigned, &[])), [0]);
    // A signature that is there must still be right.
    let mut wrong = served.ens(Scheme::Parameter);
    wrong.secret = "x".to_owned();
    assert_eq!(
        refused(&wrong.call(DESCRIBE, &[("AppId", "app-1")])).1,
        "SignatureDoesNotMatch"
    );
}

#[test]
fn parameters_and_applications_and_regions_are_checked() {
    let served = Served::new("", "region = \"r1\"\napps = [\"app-1\"]");
    let ens = served.ens(Scheme::Header);
    let good = data(&[item("n", "1")]);
    let strategy = |operator: &str, region: &str| {
        format!(
            r#"{{"name":"ScheduleToRegionId","parameters":{{"operator":"{operator}","values":["{region}"]}}}}"#
        )
    };
    for (action, parameters, code) in [
        (PUSH, vec![("AppId", "app-1")], "MissingData"),
        (PUSH, vec![("AppId", "app-1"), ("Data", "")], "MissingData"),
        (
            PUSH,
            vec![("AppId", "app-2"), ("Data", &good)],
            "InvalidParameter.AppId",
        ),
        (
            PUSH,
            vec![("AppId", "app-1"), ("Data", "[]")],
            "InvalidParameter.Data",
        ),
        (
            PUSH,
            vec![("AppId", "app-1"), ("Data", &good), ("Format", "XML")],
            "InvalidParameter.Format",
        ),
        (
            PUSH,
            vec![("AppId", "app-1"), ("Data", &good), ("PushStrategy", "{")],
            "InvalidParameter.PushStrategy",
        ),
        (
            PUSH,
            vec![
                ("AppId", "app-1"),
                ("Data", &good),
                ("PushStrategy", &strategy("In", "r2")),
            ],
            "InvalidParameter.PushStrategy",
        ),
        (
            PUSH,
            vec![
                ("AppId", "app-1"),
                ("Data", &good),
                ("PushStrategy", &strategy("NotIn", "r1")),
            ],
            "InvalidParameter.PushStrategy",
        ),
        (DESCRIBE, vec![("AppId", "app-2")], "InvalidParameter.AppId"),
        (
            DESCRIBE,
            vec![("AppId", "app-1"), ("PageSize", "0")],
            "InvalidParameter.PageSize",
        ),
        (
            DOWNLOAD,
            vec![("AppId", "app-1"), ("DataName", "n")],
            "MissingDataVersion",
        ),
        (
            DOWNLOAD,
            vec![("AppId", "app-2"), ("DataName", "n"), ("DataVersion", "1")],
            "InvalidParameter.AppId",
        ),
        (
            DOWNLOAD,
            vec![("AppId", "app-1"), ("DataName", "n"), ("DataVersion", "1")],
            "InvalidParameter.DataName",
        ),
    ] {
        assert_eq!(
            refused(&ens.call(action, &parameters)),
            (400, code.to_owned()),
            "{action} {parameters:?}"
        );
    }
    // Nothing of all that was taken.
    assert_eq!(
        names(&ens.call(DESCRIBE, &[("AppId", "app-1")])),
        Vec::<String>::new()
    );
    let answer = ens.call(
        PUSH,
        &[
            ("AppId", "app-1"),
            ("Data", &good),
            ("PushStrategy", &strategy("In", "r1")),
        ],
    );
    assert_eq!(codes(&answer), [0]);
}

#[test]
fn describes_pages_in_the_order_of_first_pushes() {
    let served = Served::new("", "region = \"r1\"");
    let ens = served.ens(Scheme::Parameter);
    let items: Vec<Value> = (0..5)
        .map(|n| item(&format!("n{}", 4 - n), &format!("v{}", n % 2)))
        .collect();
    assert_eq!(codes(&push(&ens, &items)), [0; 5]);
    let describe = |more: &[(&str, &str)]| {
        let parameters = [&[("AppId", "app-1")], more].concat();
        ens.call(DESCRIBE, &parameters)
    };
    let every = names(&describe(&[]));
    assert_eq!(every, ["n4", "n3", "n2", "n1", "n0"]);
    let mut paged = Vec::new();
    for (page, want) in [("1", 2), ("2", 2), ("3", 1), ("4", 0)] {
        let answer = describe(&[("PageNumber", page), ("PageSize", "2")]);
        let body = taken(&answer);
        assert_eq!(
            (&body["TotalCount"], &body["PageSize"]),
            (&json!(5), &json!(2))
        );
        assert_eq!(names(&answer).len(), want);
        paged.extend(names(&answer));
    }
    assert_eq!(paged, every);
    assert_eq!(names(&describe(&[("DataVersions", "v1,v7")])), ["n3", "n1"]);
    assert_eq!(
        names(&describe(&[("DataNames", "n1,n4"), ("DataVersions", "v1")])),
        ["n1"]
    );
    assert_eq!(
        names(&describe(&[("DataNames", "n")])),
        Vec::<String>::new()
    );
    assert_eq!(names(&describe(&[("RegionIds", "r0,r1")])).len(), 5);
    let none = taken(&describe(&[("RegionIds", "r0")]));
    assert_eq!(
        (&none["TotalCount"], &none["PageSize"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(names(&describe(&[("MinDate", "2020-01-01")])).len(), 5);
    assert_eq!(names(&describe(&[("MaxDate", "2020-01-01")])).len(), 0);
}

#[test]
fn an_archive_is_downloaded_by_its_signed_path_only() {
    let served = Served::new("", "region = \"r1\"");
    let ens = served.ens(Scheme::Header);
    let file: Key = key("app-1", "a/b", "1.0");
    assert_eq!(codes(&push(&ens, &[item("a/b", "1.0")])), [0]);
    let ask = |more: &[(&str, &str)]| {
        let which = [
            ("AppId", "app-1"),
            ("DataName", "a/b"),
            ("DataVersion", "1.0"),
        ];
        ens.sign("GET", DOWNLOAD, &[&which, more].concat(), &[])
            .send(served.address)
    };
    let early = taken(&ask(&[]));
    assert_eq!(
        (&early["Code"], &early["Data"]["ServerList"]),
        (&json!(0), &json!([]))
    );
    let archive: Vec<u8> = (0..700_000u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    served.publish(&file, &archive);
    let body = taken(&ask(&[("ExpireTimeout", "600")]));
    assert_eq!(
        (&body["Code"], &body["Message"]),
        (&json!(0), &json!("Success"))
    );
    let servers = json!([{"Host": served.address.to_string(), "RegionId": "r1"}]);
    assert_eq!(body["Data"]["ServerList"], servers);
    let url = body["Data"]["Url"].as_str().unwrap();
    assert!(url.contains(&format!("ak={ID}&ts=")), "{url}");

    let whole = served.tcp("GET", url, &[]);
    assert_eq!((whole.status, &whole.body), (200, &archive));
    let etag = whole
        .head
        .lines()
        .find_map(|l| l.strip_prefix("etag: "))
        .unwrap()
        .to_owned();
    let head = served.tcp("HEAD", url, &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(
        head.head.contains("content-length: 700000"),
        "{}",
        head.head
    );

    for (headers, status, range) in [
        (vec![("Range", "bytes=300000-")], 206, 300_000..700_000),
        (vec![("Range", "bytes=5-9")], 206, 5..10),
        (vec![("Range", "bytes=-7")], 206, 699_993..700_000),
        (
            vec![("Range", "bytes=5-9"), ("If-Range", etag.as_str())],
            206,
            5..10,
        ),
        (
            vec![("Range", "bytes=5-9"), ("If-Range", "\"other\"")],
            200,
            0..700_000,
        ),
        (vec![("Range", "bytes=0-1,4-5")], 200, 0..700_000),
        (vec![("Range", "bytes=700000-")], 416, 0..0),
        (vec![("If-None-Match", etag.as_str())], 304, 0..0),
    ] {
        let part = served.tcp("GET", url, &headers);
        assert_eq!(part.status, status, "{headers:?}");
        assert!(part.body == archive[range.clone()], "{headers:?}");
        if status == 206 {
            let want = format!(
                "content-range: bytes {}-{}/700000",
                range.start,
                range.end - 1
            );
            assert!(part.head.contains(&want), "{}", part.head);
        }
    }
    let (path, query) = url.split_once('?').unwrap();
    let ts = query
        .split("ts=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap();
    let later = (ts.parse::<u64>().unwrap() + 1).to_string();
    let other = edgepush::wire::download::path(&file.app, "a/b", "2.0");
    for forged in [
        path.to_owned(),
        url.replace("sign=", "sign=zz"),
        url.replace(ts, &later),
        url.replace(path, &other),
    ] {
        let answer = served.tcp("GET", &forged, &[]);
        assert_eq!(refused(&answer).0, 403, "{forged}");
    }
    let unknown = ens.call(
        DOWNLOAD,
        &[
            ("AppId", "app-1"),
            ("DataName", "a/b"),
            ("DataVersion", "2.0"),
        ],
    );
    assert_eq!(
        refused(&unknown),
        (400, "InvalidParameter.DataVersion".to_owned())
    );
    let strategy =
        r#"{"name":"ScheduleToRegionId","parameters":{"operator":"In","values":["r1"]}}"#;
    assert_eq!(
        taken(&ask(&[("ServerFilterStrategy", strategy)]))["Data"]["ServerList"],
        servers
    );
    let other = ask(&[("ServerFilterStrategy", &strategy.replace("r1", "r2"))]);
    assert_eq!(refused(&other).1, "InvalidParameter.ServerFilterStrategy");
}

#[test]
fn where_no_archives_are_kept_the_answer_says_so() {
    let served = Served::new("# no archives\n", "");
    let ens = served.ens(Scheme::Parameter);
    assert_eq!(codes(&push(&ens, &[item("n", "1")])), [0]);
    let file = key("app-1", "n", "1");
    served.publish(&file, b"archive");
    std::fs::remove_dir_all(served.dir().join("archives")).unwrap();
    let which = [("AppId", "app-1"), ("DataName", "n"), ("DataVersion", "1")];
    let body = taken(&ens.call(DOWNLOAD, &which));
    assert_eq!(
        (&body["Code"], &body["Data"]["ServerList"]),
        (&json!(0), &json!([]))
    );
    let message = body["Message"].as_str().unwrap();
    assert!(message.contains("keep_archives = false"), "{message}");
    let url = body["Data"]["Url"].as_str().unwrap();
    assert_eq!(served.tcp("GET", url, &[]).status, 404);
}

#[test]
fn eight_first_pushes_at_once_are_one_push() {
    let served = Served::new("", "");
    let mut all: Vec<u64> = std::thread::scope(|scope| {
        let pushes: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| codes(&push(&served.ens(Scheme::Header), &[item("once", "1")]))[0])
            })
            .collect();
        pushes.into_iter().map(|p| p.join().unwrap()).collect()
    });
    all.sort_unstable();
    assert_eq!(all, [0, 200, 200, 200, 200, 200, 200, 200]);
}

/// The signing half of `wire` and this client, written from the contract alone, sign the same.
#[test]
fn our_own_signatures_are_those_of_an_independent_client() {
    use edgepush::wire::parameters::Parameters;
    use edgepush::wire::sign::{self, Action, Key, Once};

    let address = "127.0.0.1:80".parse().unwrap();
    let client = Ens::new(address, "key-1", "a secret", Scheme::Header);
    let key = Key {
        id: &client.id,
        secret: client.secret.as_bytes(),
    };
    let once = Once {
        now_ms: 1_767_323_045_678,
        nonce: "n-1",
    };
    let mut parameters = Parameters::default();
    parameters.add("AppId", "ü *~'()+&=");
    parameters.add("Data", r#"[{"name":"a b"}]"#);
    let body = parameters.write();
    let (scheme, action) = (sign::Scheme::Header, Action::PushApplicationData);
    let signed = key.sign(scheme, action, parameters, "127.0.0.1:80", once);
    assert_eq!(signed.body, body);
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(body.as_bytes()));
    let mut headers = vec![("host".to_owned(), "127.0.0.1:80".to_owned())];
    let signed_headers = signed.headers.iter().filter(|(n, _)| *n != "authorization");
    headers.extend(signed_headers.map(|(n, v)| ((*n).to_owned(), v.clone())));
    headers.sort();
    let signature = client.header_signature("POST", &[], &headers, &digest);
    let (_, authorization) = signed.headers.last().unwrap();
    assert!(authorization.ends_with(&format!("Signature={signature}")));

    let mut parameters = Parameters::default();
    parameters.add("AppId", "ü *~'()+&=");
    let signed = key.sign(sign::Scheme::Parameter, action, parameters, "", once);
    let signature = client.parameter_signature(
        "POST",
        &[
            ("AppId", "ü *~'()+&="),
            ("Action", "PushApplicationData"),
            ("Version", "2017-11-10"),
            ("Format", "JSON"),
            ("AccessKeyId", "key-1"),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureVersion", "1.0"),
            ("SignatureNonce", "n-1"),
            ("Timestamp", "2026-01-02T03:04:05Z"),
        ],
    );
    let (_, sent) = signed.body.split_once("&Signature=").unwrap();
    assert_eq!(sent, encode(&signature));
}

#[test]
fn a_proxy_is_not_this_host_and_a_web_page_pushes_nothing() {
    use crate::support::http;
    let served = Served::new("insecure_tcp_intake = true", "");
    let ask = |method: &str, target: &str, headers: &[(&str, &str)]| {
        http::tcp(served.address, method, target, headers, b"").unwrap()
    };
    assert_eq!(ask("GET", "/v1/status", &[]).status, 200);
    for header in ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"] {
        let answer = ask("GET", "/v1/status", &[(header, "127.0.0.1")]);
        assert_eq!(answer.status, 403, "{header}");
    }
    let call = format!("/?Action={DESCRIBE}&Version=2017-11-10&AppId=app-1");
    taken(&ask("POST", &call, &[]));
    assert_eq!(refused(&ask("GET", &call, &[])).1, "UnsupportedHTTPMethod");
    for header in [
        ("Sec-Fetch-Site", "cross-site"),
        ("Origin", "http://evil.example"),
    ] {
        assert_eq!(refused(&ask("POST", &call, &[header])).1, "NoPermission");
    }
    let unsigned = crate::support::ens::Signed {
        method: "POST".to_owned(),
        target: call,
        headers: Vec::new(),
        body: String::new(),
    };
    let rebound = send_with_host(&unsigned, &served, "evil.example");
    assert_eq!(refused(&rebound).1, "NoPermission");
    // A signed call is exempt.
    let mut signed = served
        .ens(Scheme::Header)
        .sign("GET", DESCRIBE, &[("AppId", "app-1")], &[]);
    signed
        .headers
        .push(("Origin".to_owned(), "http://cms.example".to_owned()));
    taken(&signed.send(served.address));
}

#[test]
fn a_link_ends_with_its_access_key() {
    let mut other = Served::new(
        "[[access_keys]]\nid = \"other\"\nsecret_file = SECRET_FILE\n",
        "",
    );
    let mut ens = other.ens(Scheme::Header);
    assert_eq!(codes(&push(&ens, &[item("n", "1")])), [0]);
    other.publish(&key("app-1", "n", "1"), b"archive");
    let which = [("AppId", "app-1"), ("DataName", "n"), ("DataVersion", "1")];
    let link = |ens: &Ens| {
        let body = taken(&ens.call(DOWNLOAD, &which));
        body["Data"]["Url"].as_str().unwrap().to_owned()
    };
    let kept = link(&ens);
    ens.id = "other".to_owned();
    let gone = link(&ens);
    assert_eq!(other.tcp("GET", &gone, &[]).status, 200);
    other = other.restart("", "");
    assert_eq!(other.tcp("GET", &kept, &[]).status, 200);
    assert_eq!(other.tcp("GET", &gone, &[]).status, 403);
    // Nor does it live on under the name of another key.
    for id in [ID, "local"] {
        let renamed = gone.replace("ak=other", &format!("ak={id}"));
        assert_eq!(other.tcp("GET", &renamed, &[]).status, 403, "{id}");
    }
}
