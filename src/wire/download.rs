//! What `DescribeDataDownloadURL` asks, and the signed path that it answers with.
//!
//! ```text
//! /file/1/<AppId>/<md5(name)>/<md5(version)>?ak=<key id>&ts=<expiry>&sign=base64(HMAC-SHA1(file key, path "\n" ts "\n" ak))
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::Digest as _;
use subtle::ConstantTimeEq;

use super::describe::app;
use super::encode::encoded;
use super::errors::Refusal;
use super::parameters::Parameters;
use super::strategy::Strategy;
use crate::datafile::AppId;

/// Validity of a download path, where the call states none.
pub const DEFAULT_EXPIRE_S: u32 = 600;
/// Longest validity of a download path.
pub const MAX_EXPIRE_S: u32 = 7 * 24 * 3600;
/// The path under which archives are served.
pub const PREFIX: &str = "/file/1/";

/// A query for a download path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub app: AppId,
    pub name: String,
    pub version: String,
    /// The servers to return; absent: all.
    pub servers: Option<Strategy>,
    pub expire_s: u32,
}

impl Query {
    /// Reads the query's parameters.
    pub fn read(parameters: &Parameters) -> Result<Self, Refusal> {
        let app = app(parameters)?;
        let name = parameters.required("DataName")?.to_owned();
        let version = parameters.required("DataVersion")?.to_owned();
        let servers = parameters
            .optional("ServerFilterStrategy")?
            .map(Strategy::parse)
            .transpose()
            .map_err(|e| Refusal::parameter("ServerFilterStrategy", e))?;
        let expire_s = match parameters.integer("ExpireTimeout")? {
            None | Some(0) => DEFAULT_EXPIRE_S,
            Some(seconds) => seconds.min(MAX_EXPIRE_S),
        };
        Ok(Self {
            app,
            name,
            version,
            servers,
            expire_s,
        })
    }

    /// Writes the query's parameters.
    #[must_use]
    pub fn write(&self) -> Parameters {
        let mut parameters = Parameters::default();
        parameters.add("AppId", self.app.as_str());
        parameters.add("DataName", &self.name);
        parameters.add("DataVersion", &self.version);
        if let Some(strategy) = &self.servers {
            parameters.add("ServerFilterStrategy", &strategy.write());
        }
        parameters.add("ExpireTimeout", &self.expire_s.to_string());
        parameters
    }
}

/// Returns the path of an archive, without its signature.
#[must_use]
pub fn path(app: &AppId, name: &str, version: &str) -> String {
    let app = encoded(app.as_str().as_bytes());
    format!("{PREFIX}{app}/{}/{}", md5_hex(name), md5_hex(version))
}

/// Returns the MD5 of a name or version, as it stands in a path.
#[must_use]
pub fn md5_hex(text: &str) -> String {
    hex::encode(Md5::digest(text.as_bytes()))
}

/// The key that signs download paths. It gives access to every kept archive.
pub struct FileKey(Vec<u8>);

impl FileKey {
    /// Makes a key of its bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Returns `path` with its signed query, valid until `expire_s` (Unix seconds). `key_id` names
    /// the access key that it was made for.
    #[must_use]
    pub fn sign(&self, path: &str, key_id: &str, expire_s: i64) -> String {
        let sign = STANDARD.encode(self.mac(path, expire_s, key_id));
        let [ak, sign] = [key_id, &sign].map(|text| encoded(text.as_bytes()));
        format!("{path}?ak={ak}&ts={expire_s}&sign={sign}")
    }

    /// Returns the access key that `path` was signed for, if `query` is its signature and valid at
    /// `now_s` (Unix seconds).
    #[must_use]
    pub fn signed_for(&self, path: &str, query: &str, now_s: i64) -> Option<String> {
        let (expire_s, key_id, sign) = read_signature(query)?;
        let right: bool = self.mac(path, expire_s, &key_id).ct_eq(&sign).into();
        (right && now_s <= expire_s).then_some(key_id)
    }

    fn mac(&self, path: &str, expire_s: i64, key_id: &str) -> [u8; 20] {
        let mut mac = <Hmac<Sha1> as KeyInit>::new_from_slice(&self.0)
            .expect("an HMAC takes a key of any length");
        mac.update(path.as_bytes());
        mac.update(b"\n");
        mac.update(expire_s.to_string().as_bytes());
        mac.update(b"\n");
        mac.update(key_id.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

fn read_signature(query: &str) -> Option<(i64, String, [u8; 20])> {
    let parameters = Parameters::read(query, b"").ok()?;
    let expire_s = i64::from(parameters.optional("ts").ok()??.parse::<u32>().ok()?);
    let sign = STANDARD.decode(parameters.optional("sign").ok()??).ok()?;
    let key_id = parameters.optional("ak").ok()??.to_owned();
    Some((expire_s, key_id, sign.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> FileKey {
        FileKey::new(b"k".to_vec())
    }

    #[test]
    fn a_path_is_what_the_vendor_shows() {
        let app = AppId::parse("a/b").unwrap();
        assert_eq!(
            path(&app, "app01", "1.0"),
            "/file/1/a%2Fb/63051fd85f8e2119762f2866d682a7fa/e4c2e8edac362acab7123654b9e73432"
        );
    }

    #[test]
    fn signs_as_the_contract_says() {
        // printf '/file/1/a\n1700000000\nme' | openssl dgst -sha1 -hmac k -binary | base64
        let url = key().sign("/file/1/a", "me", 1_700_000_000);
        assert_eq!(
            url,
            "/file/1/a?ak=me&ts=1700000000&sign=%2Bz4JjlzKyC7HaljRBz2AQCugr3g%3D"
        );
    }

    #[test]
    fn serves_only_what_was_signed_and_only_in_time() {
        let url = key().sign("/file/1/a", "me", 1000);
        let query = url.split_once('?').unwrap().1;
        let allows = |key: FileKey, path: &str, query: &str, now_s| {
            key.signed_for(path, query, now_s).is_some()
        };
        let signed_for = key().signed_for("/file/1/a", query, 1000);
        assert_eq!(signed_for.as_deref(), Some("me"));
        assert!(!allows(key(), "/file/1/a", query, 1001));
        assert!(!allows(key(), "/file/1/b", query, 1000));
        assert!(!allows(
            FileKey::new(b"l".to_vec()),
            "/file/1/a",
            query,
            1000
        ));
        for bad in [
            "",
            "ts=1000",
            "sign=x&ts=1000",
            &query.replace("ts=1000", "ts=2000"),
            &query.replace("ts=1000", "ts=-1"),
            &query.replace("sign=", "sign=zz"),
            &query.replace("ak=me", "ak=you"),
            &format!("{query}&ts=2000"),
        ] {
            assert!(!allows(key(), "/file/1/a", bad, 1000), "{bad}");
        }
    }

    #[test]
    fn reads_its_parameters() {
        let read = |query: &str| {
            Query::read(&Parameters::read(query, b"").unwrap())
                .map_err(|e| e.code.name().into_owned())
        };
        let all = "AppId=a&DataName=n&DataVersion=1";
        assert_eq!(read(all).unwrap().expire_s, DEFAULT_EXPIRE_S);
        let with = |more: &str| read(&format!("{all}&{more}"));
        assert_eq!(with("ExpireTimeout=60").unwrap().expire_s, 60);
        assert_eq!(
            with("ExpireTimeout=999999999").unwrap().expire_s,
            MAX_EXPIRE_S
        );
        assert_eq!(
            with("ExpireTimeout=x"),
            Err("InvalidParameter.ExpireTimeout".to_owned())
        );
        let regions =
            r#"{"name":"ScheduleToRegionId","parameters":{"operator":"In","values":["r"]}}"#;
        let query = with(&format!("ServerFilterStrategy={regions}")).unwrap();
        assert_eq!(Query::read(&query.write()), Ok(query));
        let strategy = with("ServerFilterStrategy=%7B%7D");
        assert_eq!(
            strategy,
            Err("InvalidParameter.ServerFilterStrategy".to_owned())
        );
        assert_eq!(
            read("AppId=a&DataName=n"),
            Err("MissingDataVersion".to_owned())
        );
        assert_eq!(read("AppId=a"), Err("MissingDataName".to_owned()));
    }
}
