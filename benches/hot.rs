//! The hot parts, each through the code that a push runs: `cargo bench --bench hot`.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a measurement that goes wrong ends there and then; divan makes public items"
)]

#[path = "../tests/it/support/mod.rs"]
mod support;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// The digest of an archive: beside what `md-5` does in plain Rust.
mod digest {
    use super::*;
    use edgepush::datafile::{Content, Md5};
    use edgepush::verify::Hasher;

    const BLOCK: usize = 256 << 10;
    const BLOCKS: usize = 16;

    fn block() -> Vec<u8> {
        support::archive::noise(BLOCK, 1)
    }

    #[divan::bench]
    fn hasher_md5(bencher: Bencher<'_, '_>) {
        let (block, any) = (block(), Md5::parse(&"0".repeat(32)).unwrap());
        bencher
            .counter(BytesCount::new(BLOCK * BLOCKS))
            .bench_local(|| {
                // Stated, so that nothing but MD5 is computed.
                let mut hasher = Hasher::new(Content {
                    md5: Some(any),
                    ..Content::default()
                });
                (0..BLOCKS).for_each(|_| hasher.update(black_box(&block)));
                hasher.finish()
            });
    }

    #[divan::bench]
    fn plain_md5(bencher: Bencher<'_, '_>) {
        use md5::Digest as _;
        let block = block();
        bencher
            .counter(BytesCount::new(BLOCK * BLOCKS))
            .bench_local(|| {
                let mut hasher = md5::Md5::new();
                (0..BLOCKS).for_each(|_| hasher.update(black_box(&block)));
                hasher.finalize()
            });
    }
}

/// Archives: inflated, walked through, and written as a tree.
mod unpacking {
    use super::*;
    use std::fs::File;
    use support::archive::{site, tar, tar_gz};

    use edgepush::datafile::ArchiveType;
    use edgepush::unpack::{Config, Options, Target, unpack_stream};

    const FILES: usize = 2_000;

    fn options() -> Options {
        Options::new(&Config::default())
    }

    fn size(files: &[(String, Vec<u8>)]) -> usize {
        files.iter().map(|(_, content)| content.len()).sum()
    }

    /// One big file of text: next to nothing but the gzip reader.
    #[divan::bench]
    fn inflate(bencher: Bencher<'_, '_>) {
        let text: Vec<u8> = site("1", 4_000).into_iter().flat_map(|(_, c)| c).collect();
        let bytes = text.len();
        let archive = tar_gz(&[("big.txt".to_owned(), text)]);
        bencher.counter(BytesCount::new(bytes)).bench_local(|| {
            unpack_stream(
                ArchiveType::TarGz,
                black_box(&*archive),
                Target::Check,
                &options(),
            )
            .unwrap()
        });
    }

    #[divan::bench]
    fn walk_tar_of_small_files(bencher: Bencher<'_, '_>) {
        let archive = tar(&site("1", FILES));
        bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
            unpack_stream(
                ArchiveType::Tar,
                black_box(&*archive),
                Target::Check,
                &options(),
            )
            .unwrap()
        });
    }

    /// Into a directory below `TMPDIR`, digests of the entries included; taking it down again is not counted.
    #[divan::bench(sample_count = 20)]
    fn write_tree_of_small_files(bencher: Bencher<'_, '_>) {
        let files = site("1", FILES);
        let archive = tar(&files);
        bencher
            .counter(ItemsCount::new(FILES))
            .counter(BytesCount::new(size(&files)))
            .with_inputs(|| tempfile::tempdir().unwrap())
            .bench_local_refs(|dir| {
                let root = File::open(dir.path()).unwrap().into();
                unpack_stream(
                    ArchiveType::Tar,
                    &*archive,
                    Target::Directory(root),
                    &options(),
                )
                .unwrap()
            });
    }
}

/// Names as they stand on the disk.
#[divan::bench(args = ["maps", "site/en/2026", "数据/地图"])]
fn escape_name(name: &str) -> String {
    edgepush::datafile::path_component(black_box(name))
}

/// One that is too long for a file system: it is cut, and a digest of it added.
#[divan::bench]
fn escape_long_name(bencher: Bencher<'_, '_>) {
    let name = "x".repeat(300);
    bencher.bench_local(|| edgepush::datafile::path_component(black_box(&name)));
}

/// Whole lives of jobs in the database: accepted, started, published. Those at once share commits.
mod store {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    use edgepush::datafile::{
        AppId, ArchiveType, Content, DataFile, DataName, DataVersion, Key, Md5, SourceUrl,
    };
    use edgepush::job::{Outcome, Published};
    use edgepush::store::Store;
    use edgepush::store::jobs::{self, NewJob};
    use edgepush::sys::clock::SystemClock;
    use edgepush::wire::push::Via;

    #[divan::bench(args = [1, 64], sample_count = 30)]
    fn lives_at_once(bencher: Bencher<'_, '_>, count: usize) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let store = Store::open(&dir.path().join("edgepush.db"), Arc::new(SystemClock)).unwrap();
        let mut round = 0;
        bencher.counter(ItemsCount::new(count)).bench_local(|| {
            round += 1;
            let lives = (0..count).map(|n| life(&store, file(n, round)));
            runtime.block_on(futures_util::future::join_all(lives))
        });
    }

    async fn life(store: &Store, file: DataFile) {
        let accept = move |tx: &edgepush::store::Tx<'_>| {
            let new = NewJob {
                file: &file,
                push: "push",
                via: Via::Ens,
                activate: true,
            };
            jobs::insert(tx, &new)
        };
        let id = store.write(accept).await.unwrap();
        let started = store.write(move |tx| jobs::start(tx, id, tx.now_ms()));
        assert_eq!(started.await.unwrap(), Some(1));
        let published = Outcome::Published(Published {
            content: Content::default(),
            files: 10,
            bytes: 1000,
            fetched: 500,
            activated: true,
        });
        let ended = store.write(move |tx| jobs::finish(tx, id, &published, tx.now_ms()));
        assert!(ended.await.unwrap());
    }

    fn file(n: usize, round: usize) -> DataFile {
        DataFile {
            key: Key {
                app: AppId::parse("app").unwrap(),
                name: DataName::parse(&format!("name-{n}")).unwrap(),
                version: DataVersion::parse(&format!("1.{round}")).unwrap(),
            },
            archive_type: ArchiveType::TarGz,
            size: Some(500),
            md5: Some(Md5::parse(&"0".repeat(32)).unwrap()),
            sha256: None,
            url: SourceUrl::parse("http://cdn.example/site.tar.gz").unwrap(),
            timeout: Duration::from_secs(1800),
        }
    }
}

/// A signed push of ten elements: read and checked, body digest aside.
mod signature {
    use super::*;
    use axum::http::{HeaderMap, HeaderName, HeaderValue};
    use edgepush::wire::parameters::Parameters;
    use edgepush::wire::sign::{Call, Request};
    use support::ens::{Ens, Scheme};

    #[divan::bench(args = [Scheme::Header, Scheme::Parameter])]
    fn check(bencher: Bencher<'_, '_>, scheme: Scheme) {
        let ens = Ens::new(([127, 0, 0, 1], 80).into(), "key-1", "a secret", scheme);
        let element = r#"{"name":"site/1","version":"1.0.0","size":1048576,"archiveType":"tar.gz","timeout":1800,"url":"http://cdn.example/site.tar.gz"}"#;
        let data = format!("[{}]", [element; 10].join(","));
        let form = [("AppId", "app"), ("Data", data.as_str())];
        let signed = ens.sign("POST", "PushApplicationData", &[], &form);
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("127.0.0.1:80"));
        for (name, value) in &signed.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        let body_sha256 = sha2::Digest::finalize(sha2::Digest::chain_update(
            <sha2::Sha256 as sha2::Digest>::new(),
            &signed.body,
        ));
        let query = signed.target.trim_start_matches("/?");
        bencher.bench_local(|| {
            let parameters = Parameters::read(query, black_box(signed.body.as_bytes())).unwrap();
            let request = Request {
                method: "POST",
                headers: &headers,
                parameters: &parameters,
                body_sha256: body_sha256.into(),
            };
            let call = Call::read(request).unwrap();
            call.verify(b"a secret").unwrap();
        });
    }
}
