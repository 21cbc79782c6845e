//! A client of the ENS endpoint that signs both ways, written from the contract and not from our own signing code.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Digest as _;

use super::http::{self, Answer};
use super::node::encode;

/// A client with one access key.
#[derive(Clone)]
pub(crate) struct Ens {
    pub(crate) address: SocketAddr,
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) scheme: Scheme,
    /// Seconds by which its clock is off.
    pub(crate) skew: i64,
}

/// How it signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scheme {
    /// By the `Authorization` header.
    Header,
    /// By the parameter `Signature`.
    Parameter,
}

/// A signed request that can be sent, bent and sent again.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Signed {
    pub(crate) fn send(&self, address: SocketAddr) -> Answer {
        let headers: Vec<(&str, &str)> = self
            .headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        http::tcp(
            address,
            &self.method,
            &self.target,
            &headers,
            self.body.as_bytes(),
        )
        .unwrap()
    }
}

impl Ens {
    pub(crate) fn new(address: SocketAddr, id: &str, secret: &str, scheme: Scheme) -> Self {
        Self {
            address,
            id: id.to_owned(),
            secret: secret.to_owned(),
            scheme,
            skew: 0,
        }
    }

    /// Calls an action with its parameters in the query.
    pub(crate) fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Answer {
        self.sign("POST", action, parameters, &[])
            .send(self.address)
    }

    /// Signs a request with parameters in query and form.
    pub(crate) fn sign(
        &self,
        method: &str,
        action: &str,
        query: &[(&str, &str)],
        form: &[(&str, &str)],
    ) -> Signed {
        match self.scheme {
            Scheme::Header => self.sign_header(method, action, query, form),
            Scheme::Parameter => self.sign_parameter(method, action, query, form),
        }
    }

    fn time(&self) -> String {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let ms = i64::try_from(now.as_millis()).unwrap() + self.skew * 1000;
        edgepush::wire::time::stamp(ms)
    }

    fn sign_header(
        &self,
        method: &str,
        action: &str,
        query: &[(&str, &str)],
        form: &[(&str, &str)],
    ) -> Signed {
        let body = pairs(form);
        let digest = hex::encode(sha2::Sha256::digest(body.as_bytes()));
        let mut headers = vec![
            ("host".to_owned(), self.address.to_string()),
            ("x-acs-action".to_owned(), action.to_owned()),
            ("x-acs-content-sha256".to_owned(), digest.clone()),
            ("x-acs-date".to_owned(), self.time()),
            ("x-acs-signature-nonce".to_owned(), nonce()),
            ("x-acs-version".to_owned(), "2017-11-10".to_owned()),
        ];
        let names: Vec<&str> = headers.iter().map(|(n, _)| n.as_str()).collect();
        let names = names.join(";");
        let signature = self.header_signature(method, query, &headers, &digest);
        headers.remove(0);
        headers.push((
            "Authorization".to_owned(),
            format!(
                "ACS3-HMAC-SHA256 Credential={},SignedHeaders={names},Signature={signature}",
                self.id
            ),
        ));
        Self::finish(method, &pairs(query), headers, body)
    }

    /// Returns the signature over `headers`, which are sorted by their names.
    pub(crate) fn header_signature(
        &self,
        method: &str,
        query: &[(&str, &str)],
        headers: &[(String, String)],
        digest: &str,
    ) -> String {
        let names: Vec<&str> = headers.iter().map(|(n, _)| n.as_str()).collect();
        let names = names.join(";");
        let lines: String = headers.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
        let mut sorted = query.to_vec();
        sorted.sort_unstable();
        let canonical = format!(
            "{method}\n/\n{}\n{lines}\n{names}\n{digest}",
            pairs(&sorted)
        );
        let text = format!(
            "ACS3-HMAC-SHA256\n{}",
            hex::encode(sha2::Sha256::digest(canonical.as_bytes()))
        );
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(self.secret.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    /// Returns the signature over all `parameters` of the older scheme.
    pub(crate) fn parameter_signature(&self, method: &str, parameters: &[(&str, &str)]) -> String {
        let mut sorted = parameters.to_vec();
        sorted.sort_unstable();
        let text = format!("{method}&%2F&{}", encode(&pairs(&sorted)));
        let key = format!("{}&", self.secret);
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
    }

    fn sign_parameter(
        &self,
        method: &str,
        action: &str,
        query: &[(&str, &str)],
        form: &[(&str, &str)],
    ) -> Signed {
        let (time, nonce) = (self.time(), nonce());
        let mut query = query.to_vec();
        query.extend([
            ("Action", action),
            ("Version", "2017-11-10"),
            ("Format", "JSON"),
            ("AccessKeyId", self.id.as_str()),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureVersion", "1.0"),
            ("SignatureType", ""),
            ("SignatureNonce", &nonce),
            ("Timestamp", &time),
        ]);
        let signature = self.parameter_signature(method, &[query.as_slice(), form].concat());
        let query = format!("{}&Signature={}", pairs(&query), encode(&signature));
        Self::finish(method, &query, Vec::new(), pairs(form))
    }

    fn finish(
        method: &str,
        query: &str,
        mut headers: Vec<(String, String)>,
        body: String,
    ) -> Signed {
        if !body.is_empty() {
            let kind = "application/x-www-form-urlencoded; charset=utf-8";
            headers.push(("Content-Type".to_owned(), kind.to_owned()));
        }
        Signed {
            method: method.to_owned(),
            target: format!("/?{query}"),
            headers,
            body,
        }
    }
}

fn pairs(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(n, v)| format!("{}={}", encode(n), encode(v)))
        .collect();
    pairs.join("&")
}

fn nonce() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{n}", std::process::id())
}
