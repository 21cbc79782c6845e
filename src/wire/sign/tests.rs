//! The contract's vectors, made by the vendor's own clients, and everything that must not pass.

use sha2::{Digest as _, Sha256};

use super::*;

const KEY_ID: &str = "testAccessKeyId0001";
const SECRET: &[u8] = b"testAccessKeySecret0001";
const NOW: i64 = 1_767_323_045_000; // 2026-01-02T03:04:05Z
const NONCE: &str = "0123456789abcdef0123456789abcdef";
const DATA: &str = "%5B%7B%22name%22%3A%22a+b%22%2C%22version%22%3A%221.0%22%2C%22size%22%3A3%2C%22archiveType%22%3A%22zip%22%2C%22md5%22%3A%22%22%2C%22url%22%3A%22http%3A%2F%2Fh%2Fx%3Fy%3D1%26z%3D%C3%BC%2B%2A~%22%2C%22timeout%22%3A9%7D%5D";
const V3_SIGNATURE: &str = "09bec24a51c476f2540c32d6ca1213dca043aee88f828bab446a88b29bb1403f";
const V1_SIGNATURE: &str = "wktmcZ2Tbsvq6%2BbK96iPBI%2FQ0lw%3D";
const V1_TEXT: &str = "POST&%2F&AccessKeyId%3DtestAccessKeyId0001%26Action%3DPushApplicationData%26AppId%3Dapp-1%26Data%3D%255B%257B%2522name%2522%253A%2522a%2520b%2522%252C%2522version%2522%253A%25221.0%2522%252C%2522size%2522%253A3%252C%2522archiveType%2522%253A%2522zip%2522%252C%2522md5%2522%253A%2522%2522%252C%2522url%2522%253A%2522http%253A%252F%252Fh%252Fx%253Fy%253D1%2526z%253D%25C3%25BC%252B%252A~%2522%252C%2522timeout%2522%253A9%257D%255D%26Format%3DJSON%26RegionId%3Dcn-hangzhou%26SignatureMethod%3DHMAC-SHA1%26SignatureNonce%3D0123456789abcdef0123456789abcdef%26SignatureType%3D%26SignatureVersion%3D1.0%26Timestamp%3D2026-01-02T03%253A04%253A05Z%26Version%3D2017-11-10";

/// A request whose every part a test can bend.
#[derive(Clone)]
struct Sample {
    method: &'static str,
    query: String,
    form: String,
    headers: Vec<(String, String)>,
}

impl Sample {
    fn v3() -> Self {
        let signed = "accept;host;user-agent;x-acs-action;x-acs-content-sha256;x-acs-credentials-provider;x-acs-date;x-acs-signature-nonce;x-acs-version";
        let authorization = format!(
            "ACS3-HMAC-SHA256 Credential={KEY_ID},SignedHeaders={signed},Signature={V3_SIGNATURE}"
        );
        let headers = [
            ("accept", "application/json"),
            ("host", "127.0.0.1:8080"),
            ("user-agent", "test-agent/1"),
            ("x-acs-action", "PushApplicationData"),
            (
                "x-acs-content-sha256",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            ("x-acs-credentials-provider", "static_ak"),
            ("x-acs-date", "2026-01-02T03:04:05Z"),
            ("x-acs-signature-nonce", NONCE),
            ("x-acs-version", "2017-11-10"),
            ("authorization", &authorization),
        ];
        Self {
            method: "POST",
            query: format!("AppId=app-1&Data={DATA}&PushStrategy="),
            form: String::new(),
            headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec(),
        }
    }

    fn v1() -> Self {
        Self {
            method: "POST",
            query: format!(
                "AppId=app-1&Data={DATA}&Version=2017-11-10&Action=PushApplicationData&Format=JSON&RegionId=cn-hangzhou&Timestamp=2026-01-02T03%3A04%3A05Z&SignatureMethod=HMAC-SHA1&SignatureType=&SignatureVersion=1.0&SignatureNonce={NONCE}&AccessKeyId={KEY_ID}&Signature={V1_SIGNATURE}"
            ),
            form: String::new(),
            headers: vec![("x-acs-action".to_owned(), "Lie".to_owned())],
        }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self
    }

    /// Replaces `from` by `to` in query and headers.
    fn replace(mut self, from: &str, to: &str) -> Self {
        let before = (self.query.clone(), self.headers.clone());
        self.query = self.query.replace(from, to);
        for (_, value) in &mut self.headers {
            *value = value.replace(from, to);
        }
        assert_ne!(before, (self.query.clone(), self.headers.clone()), "{from}");
        self
    }

    /// Signs again what was bent, so that only the bend itself can be refused.
    fn sign(self, secret: &[u8]) -> Self {
        let signature = self.with_call(|call| {
            let call = call.unwrap();
            match &call.signed().unwrap().scheme {
                SignedBy::Header { signed_headers } => {
                    call.request.header_signature(secret, signed_headers)
                }
                SignedBy::Parameter => call.request.parameter_signature(secret),
            }
        });
        match self.query.split_once("&Signature=") {
            Some((start, _)) => Self {
                query: format!("{start}&Signature={}", signature.replace('+', "%2B")),
                ..self
            },
            None => self.replace(V3_SIGNATURE, &signature),
        }
    }

    fn with_call<T>(&self, judge: impl FnOnce(Result<Call<'_>, Refusal>) -> T) -> T {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(
                hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        let parameters = Parameters::read(&self.query, self.form.as_bytes()).unwrap();
        judge(Call::read(Request {
            method: self.method,
            headers: &headers,
            parameters: &parameters,
            body_sha256: Sha256::digest(self.form.as_bytes()).into(),
        }))
    }

    /// Runs every check in the contract's order.
    fn check(&self) -> Result<(), Refusal> {
        self.with_call(|call| {
            let call = call?;
            assert_eq!(call.key_id()?, KEY_ID);
            call.verify(SECRET)?;
            assert_eq!(call.time(NOW)?, NOW);
            assert_eq!(call.nonce()?, NONCE);
            assert_eq!(call.action, Action::PushApplicationData);
            Ok(())
        })
    }

    #[track_caller]
    fn refused(&self, code: &str) -> String {
        let refusal = self.check().unwrap_err();
        assert_eq!(refusal.code.name(), code, "{}", refusal.message);
        refusal.message
    }
}

#[test]
fn takes_the_vectors_of_both_schemes() {
    Sample::v3().check().unwrap();
    Sample::v1().check().unwrap();
}

#[test]
fn the_header_scheme_makes_the_contracts_texts() {
    Sample::v3().with_call(|call| {
        let call = call.unwrap();
        let SignedBy::Header { signed_headers } = call.signed().unwrap().scheme else {
            panic!("not the header scheme");
        };
        let mut text = Vec::new();
        call.request
            .canonical_request(signed_headers, &mut |piece| text.extend_from_slice(piece));
        assert_eq!(text.len(), 792);
        assert_eq!(
            call.request.header_text(signed_headers),
            "ACS3-HMAC-SHA256\nb96ff7e12b578dbbc103ba213c6e828afc164785cfd1871f362cf7837bcda1fe"
        );
    });
}

#[test]
fn a_wrong_secret_shows_the_older_client_its_own_text() {
    let message = Sample::v1()
        .replace(V1_SIGNATURE, "AAAA")
        .refused("SignatureDoesNotMatch");
    let (start, text) = message.split_once(':').unwrap();
    assert_eq!(
        start,
        "Specified signature is not matched with our calculation. server string to sign is"
    );
    assert_eq!(text, V1_TEXT);
}

#[test]
fn a_long_text_to_sign_is_cut_in_the_answer_but_not_in_the_check() {
    let long = "x".repeat(1 << 20);
    let sample = Sample {
        form: format!("Long={long}"),
        ..Sample::v1()
    };
    let message = sample.refused("SignatureDoesNotMatch");
    assert!(message.len() < MAX_SHOWN + 200);
    sample.sign(SECRET).check().unwrap();
}

#[test]
fn forgeries_do_not_pass() {
    let v3 = Sample::v3;
    let v1 = Sample::v1;
    let forged = [
        v3().replace("app-1", "app-2"),
        v3().replace("PushStrategy=", "PushStrategy=&More="),
        v3().header("accept", "*/*"),
        v3().header("host", "other"),
        v3().header("x-acs-date", "2026-01-02T03:04:06Z"),
        v3().header("x-acs-signature-nonce", "other"),
        v3().replace(V3_SIGNATURE, ""),
        v3().replace(V3_SIGNATURE, &V3_SIGNATURE.to_uppercase()),
        v3().sign(b"other"),
        Sample {
            method: "GET",
            ..v3()
        },
        Sample {
            form: "A=1".to_owned(),
            ..v3()
        },
        v1().replace("app-1", "app-2"),
        v1().replace("03%3A04%3A05Z", "03%3A04%3A06Z"),
        v1().replace(NONCE, "other"),
        v1().replace("RegionId=", "regionId="),
        v1().sign(b"other"),
        Sample {
            method: "GET",
            ..v1()
        },
        Sample {
            form: "A=1".to_owned(),
            ..v1()
        },
    ];
    for sample in forged {
        let refusal = sample.with_call(|call| call.unwrap().verify(SECRET).unwrap_err());
        assert_eq!(refusal.code, Code::SignatureDoesNotMatch);
        assert!(refusal.message.contains("server string to sign is:"));
    }
}

#[test]
fn form_pairs_are_signed_by_either_scheme() {
    // The header scheme covers a form by its digest, the parameter scheme by its pairs.
    let form = "DataNames=a%20b&X=*~'".to_owned();
    let digest = hex::encode(Sha256::digest(form.as_bytes()));
    let v3 = Sample {
        form: form.clone(),
        ..Sample::v3().header("x-acs-content-sha256", &digest)
    };
    let all_in_form = Sample {
        query: String::new(),
        ..Sample::v1()
    };
    v3.sign(SECRET).check().unwrap();
    Sample {
        form,
        ..Sample::v1()
    }
    .sign(SECRET)
    .check()
    .unwrap();
    Sample {
        form: Sample::v1().query,
        ..all_in_form
    }
    .check()
    .unwrap();
}

#[test]
fn the_list_of_signed_headers_is_followed_and_must_be_complete() {
    let fewer =
        "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version";
    let bent = |list: &str| {
        let mut sample = Sample::v3();
        for (name, value) in &mut sample.headers {
            if name == "authorization" {
                *value = format!(
                    "ACS3-HMAC-SHA256 Credential={KEY_ID}, SignedHeaders={list}, Signature={V3_SIGNATURE}"
                );
            }
        }
        sample
    };
    let good = bent(fewer).sign(SECRET);
    good.check().unwrap();
    good.header("user-agent", "a proxy").check().unwrap();
    for name in MUST_SIGN {
        let list = fewer.replace(name, "").replace(";;", ";");
        bent(list.trim_matches(';')).refused("IncompleteSignature");
    }
    for list in [
        &format!("{fewer};x-acs-version"),
        "x-acs-version;host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce",
        &format!("{fewer};z-missing"),
        "",
    ] {
        bent(list).refused("IncompleteSignature");
    }
    let mut twice = bent(fewer);
    twice.headers.push((
        "x-acs-action".to_owned(),
        "DescribeDataPushResult".to_owned(),
    ));
    twice.refused("IncompleteSignature");
}

#[test]
fn several_values_of_one_header_are_joined() {
    let mut sample = Sample::v3();
    sample
        .headers
        .push(("accept".to_owned(), "text/html".to_owned()));
    sample.sign(SECRET).check().unwrap();
}

#[test]
fn what_is_missing_or_odd_is_named_in_the_contracts_order() {
    let v3 = Sample::v3;
    let v1 = Sample::v1;
    for (sample, code) in [
        (
            v3().header("x-acs-action", "Other"),
            "InvalidAction.NotFound",
        ),
        (v3().without("x-acs-action"), "InvalidAction.NotFound"),
        (v3().header("x-acs-version", "2017-11-11"), "InvalidVersion"),
        (v3().without("authorization"), "MissingAccessKeyId"),
        (
            v3().header("authorization", "Basic x"),
            "MissingAccessKeyId",
        ),
        (
            v3().replace("ACS3-HMAC-SHA256", "ACS3-HMAC-SM3"),
            "InvalidSignatureMethod",
        ),
        (
            v3().replace("ACS3-HMAC-SHA256 ", "ACS3-HMAC-SHA256"),
            "InvalidSignatureMethod",
        ),
        (
            v3().header("authorization", "ACS3-HMAC-SHA256 "),
            "IncompleteSignature",
        ),
        (v3().replace(",Signature=", ",Sig="), "IncompleteSignature"),
        (
            v3().replace(",Signature=", ",Signature=a,Signature="),
            "IncompleteSignature",
        ),
        (
            v3().replace(&format!("Credential={KEY_ID}"), "Credential="),
            "MissingAccessKeyId",
        ),
        (v3().without("x-acs-date"), "IncompleteSignature"),
        (v3().without("accept"), "IncompleteSignature"),
        (
            v3().header("x-acs-security-token", "t"),
            "InvalidSecurityToken.Malformed",
        ),
        (
            v3().header("x-acs-signature-nonce", &"n".repeat(300)),
            "InvalidParameter.SignatureNonce",
        ),
        (
            v3().header("x-acs-signature-nonce", ""),
            "MissingSignatureNonce",
        ),
        (
            Sample {
                method: "PUT",
                ..v3()
            },
            "UnsupportedHTTPMethod",
        ),
        (
            v1().replace("Action=Push", "Action=Posh"),
            "InvalidAction.NotFound",
        ),
        (
            v1().replace("Version=2017", "Version=2018"),
            "InvalidVersion",
        ),
        (v1().replace("AccessKeyId=", "X="), "MissingAccessKeyId"),
        (v1().replace("&Timestamp=", "&X="), "MissingTimestamp"),
        (
            v1().replace("SignatureNonce=", "X="),
            "MissingSignatureNonce",
        ),
        (
            v1().replace("HMAC-SHA1", "HMAC-SHA256"),
            "InvalidSignatureMethod",
        ),
        (
            v1().replace("SignatureVersion=1.0", "SignatureVersion=2.0"),
            "InvalidSignatureMethod",
        ),
        (
            v1().replace("SignatureType=", "SignatureType=BEARERTOKEN"),
            "InvalidSignatureMethod",
        ),
        (
            v1().replace("&Signature=", "&SecurityToken=t&Signature="),
            "InvalidSecurityToken.Malformed",
        ),
        (
            v1().replace("&Signature=", "&Signature=a&Signature="),
            "InvalidParameter.Signature",
        ),
        (v1().replace("&Signature=", "&X="), "MissingAccessKeyId"),
    ] {
        sample.refused(code);
    }
}

#[test]
fn time_is_judged_after_the_signature_to_the_second() {
    for (now, code) in [
        (NOW + WINDOW_MS, None),
        (NOW - WINDOW_MS, None),
        (NOW + WINDOW_MS + 1, Some("InvalidTimeStamp.Expired")),
        (NOW - WINDOW_MS - 1, Some("InvalidTimeStamp.Expired")),
    ] {
        for sample in [Sample::v1(), Sample::v3()] {
            let result = sample.with_call(|call| call.unwrap().time(now));
            let got = result.err().map(|e| e.code.name().into_owned());
            assert_eq!(got.as_deref(), code);
        }
    }
    for bad in [
        "yesterday",
        "2026-01-02T03:04:05",
        "2026-01-02 03:04:05Z",
        "2026-13-02T03:04:05Z",
        "2026-01-02T03:04:05+00:00",
        "",
    ] {
        let sample = Sample::v3().header("x-acs-date", bad);
        sample.refused("SignatureDoesNotMatch");
        sample.sign(SECRET).refused("InvalidTimeStamp.Format");
    }
}

#[test]
fn an_unsigned_call_may_name_its_action_either_way() {
    let in_headers = Sample::v3().without("authorization");
    let in_parameters = Sample::v1().replace("&Signature=", "&X=");
    for sample in [in_headers, in_parameters] {
        sample.with_call(|call| {
            let call = call.unwrap();
            assert!(!call.is_signed());
            assert_eq!(call.action, Action::PushApplicationData);
        });
    }
}

#[test]
fn what_a_key_signs_is_accepted_until_a_byte_of_it_changes() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..60 {
        let nonce = format!("nonce-{round}");
        let secret: Vec<u8> = (0..random.usize(1..80)).map(|_| random.u8(..)).collect();
        let mut parameters = Parameters::default();
        let value: String = (0..random.usize(1..40)).map(|_| random.char(..)).collect();
        parameters.add("AppId", &value);
        parameters.add("Data", r#"[{"name":"a b+c","url":"http://h/?x=%20"}]"#);
        let key = Key {
            id: KEY_ID,
            secret: &secret,
        };
        let scheme = *random
            .choice([super::Scheme::Header, super::Scheme::Parameter].iter())
            .unwrap();
        let once = Once {
            now_ms: NOW,
            nonce: &nonce,
        };
        let action = *random.choice(Action::ALL.iter()).unwrap();
        let signed = key.sign(scheme, action, parameters, "h:80", once);
        let check = |body: &str, secret: &[u8]| {
            let mut sample = Sample {
                method: "POST",
                query: String::new(),
                form: body.to_owned(),
                headers: vec![("host".to_owned(), "h:80".to_owned())],
            };
            let headers = signed.headers.iter();
            sample
                .headers
                .extend(headers.map(|(n, v)| ((*n).to_owned(), v.clone())));
            sample.with_call(|call| {
                let call = call?;
                assert_eq!((call.action, call.key_id()?), (action, KEY_ID));
                call.verify(secret)?;
                assert_eq!((call.time(NOW)?, call.nonce()?), (NOW, nonce.as_str()));
                Ok::<_, Refusal>(())
            })
        };
        check(&signed.body, &secret).unwrap();
        assert!(check(&signed.body, b"another").is_err());
        let bent = signed.body.replace("a%20b", "a%20c");
        assert_ne!(bent, signed.body);
        assert!(check(&bent, &secret).is_err());
    }
}
