//! The table of answers (docs/ens.md §3), over a real store.

use super::*;
use crate::datafile::{Invalid, Key, Sha256};
use crate::db::outbox;
use crate::job::{JobState, Outcome};
use crate::store::testing::{Bench, NOW, file, key, md5, published};
use crate::store::{activations, events};
use crate::sys::failure::{Class, Kind, Retry};
use crate::wire::push::Item;
use crate::wire::strategy::Strategy;

const DENIED: Kind = Kind {
    name: "source-denied",
    class: Class::Policy,
    retry: Retry::Fatal,
    help: "Ask elsewhere.",
};

/// A node with a policy and no kept archives.
struct Policy(fn(&DataFile) -> Result<(), Denial>);

impl Site for Policy {
    fn check(&self, file: &DataFile) -> Result<(), Denial> {
        (self.0)(file)
    }

    fn archive_content(&self, _: &Key) -> Option<Content> {
        None
    }

    fn is_current(&self, _: &Key) -> bool {
        true
    }
}

fn item(file: DataFile) -> Item {
    Item {
        name: file.key.name.to_string(),
        version: file.key.version.to_string(),
        file: Ok(file),
    }
}

fn push(files: Vec<DataFile>) -> Push {
    Push {
        app: AppId::parse("app").unwrap(),
        items: files.into_iter().map(item).collect(),
        strategy: None,
    }
}

fn open_door(bench: &Bench, config: Config) -> Intake {
    Intake::new(bench.store.clone(), config, Policy(|_| Ok(())))
}

fn auto(bench: &Bench) -> Intake {
    open_door(bench, Config::default())
}

async fn admit(intake: &Intake, files: Vec<DataFile>) -> Vec<Answer> {
    intake.admit(push(files), Via::Ens).await.unwrap()
}

fn codes(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|a| a.code.code()).collect()
}

async fn one(intake: &Intake, file: DataFile) -> Answer {
    admit(intake, vec![file]).await.remove(0)
}

fn with_md5(mut file: DataFile, byte: u8) -> DataFile {
    file.md5 = Some(md5(byte));
    file
}

fn stating_nothing(mut file: DataFile) -> DataFile {
    (file.size, file.md5) = (None, None);
    file
}

async fn waiting_flips(bench: &Bench) -> Vec<(Key, crate::job::Reason)> {
    let rows = bench.store.read(activations::pending).await.unwrap();
    rows.into_iter().map(|a| (a.key, a.reason)).collect()
}

async fn carry_out_flips(bench: &Bench) {
    for row in bench.store.read(activations::pending).await.unwrap() {
        bench
            .store
            .write(move |tx| activations::done(tx, row.id, None))
            .await
            .unwrap();
    }
}

async fn job_count(bench: &Bench) -> usize {
    let counts = bench.store.read(jobs::counts).await.unwrap();
    counts
        .iter()
        .map(|(_, n)| usize::try_from(*n).unwrap())
        .sum()
}

#[tokio::test]
async fn a_new_file_is_accepted_told_and_reported() {
    let bench = Bench::new();
    bench.listen().await;
    let answer = one(&auto(&bench), file("n", "1")).await;
    assert_eq!(
        (answer.code, answer.name.as_str(), answer.version.as_str()),
        (ResultCode::Accepted, "n", "1")
    );
    let id = answer.job.unwrap();
    let row = bench
        .store
        .read(move |r| jobs::get(r, id))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (row.state, row.via, row.push, row.activate),
        (JobState::Queued, Via::Ens, answer.push, true)
    );
    let timeline = bench
        .store
        .read(move |r| events::of_job(r, id, 0, 9))
        .await
        .unwrap();
    assert_eq!(timeline[0].kind, crate::job::EventKind::Accepted);
    assert_eq!(bench.store.read(outbox::pending).await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_published_is_not_fetched_again_and_never_changes() {
    let bench = Bench::new();
    let intake = auto(&bench);
    let first = bench.publish("n", "1").await;
    for same in [file("n", "1"), stating_nothing(file("n", "1"))] {
        let answer = one(&intake, same).await;
        assert_eq!(
            (answer.code, answer.job),
            (ResultCode::AlreadyPublished, Some(first))
        );
        assert!(answer.descrip.starts_with("Success"), "{}", answer.descrip);
    }
    let mut longer = stating_nothing(file("n", "1"));
    longer.size = Some(11);
    for (other, both) in [
        (
            with_md5(file("n", "1"), 2),
            [md5(1).to_string(), md5(2).to_string()],
        ),
        (longer, ["10".to_owned(), "11".to_owned()]),
    ] {
        let answer = one(&intake, other).await;
        assert_eq!((answer.code, answer.job), (ResultCode::Refused, None));
        assert_eq!(answer.refusal, Some("version-conflict"));
        for value in both {
            assert!(answer.descrip.contains(&value), "{}", answer.descrip);
        }
        assert!(answer.descrip.contains("push a new version"));
    }
    // What the publisher does not know is no difference.
    let mut with_sha = file("n", "1");
    with_sha.sha256 = Some(Sha256::parse(&"ab".repeat(32)).unwrap());
    assert_eq!(
        one(&intake, with_sha).await.code,
        ResultCode::AlreadyPublished
    );
    assert_eq!(job_count(&bench).await, 1);
}

#[tokio::test]
async fn what_is_in_flight_is_neither_started_again_nor_changed() {
    let bench = Bench::new();
    let intake = auto(&bench);
    let first = one(&intake, file("n", "1")).await;
    let again = one(&intake, file("n", "1")).await;
    assert_eq!((again.code, again.job), (ResultCode::InProgress, first.job));
    let other = one(&intake, with_md5(file("n", "1"), 2)).await;
    assert_eq!(
        (other.code, other.refusal),
        (ResultCode::Refused, Some("version-conflict"))
    );
    assert!(other.descrip.contains(&md5(1).to_string()));
    assert_eq!(job_count(&bench).await, 1);
}

#[tokio::test]
async fn a_failed_file_takes_the_new_push() {
    let bench = Bench::new();
    let intake = auto(&bench);
    let first = one(&intake, file("n", "1")).await.job.unwrap();
    bench.end(first, Outcome::Canceled).await;
    let second = one(&intake, with_md5(file("n", "1"), 2)).await;
    assert_eq!(second.code, ResultCode::Accepted);
    let row = bench
        .store
        .read(|r| jobs::latest(r, &key("n", "1")))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((Some(row.id), row.stated.md5), (second.job, Some(md5(2))));
}

#[tokio::test]
async fn one_bad_element_harms_no_other_and_answers_stand_in_order() {
    let bench = Bench::new();
    bench.publish("old", "1").await;
    let policy = Policy(|file| {
        if file.key.name.as_str() == "denied" {
            Err((&DENIED, "host `h` is not allowed".to_owned()))
        } else {
            Ok(())
        }
    });
    let intake = Intake::new(bench.store.clone(), Config::default(), policy);
    let mut files = push(vec![
        file("denied", "1"),
        file("old", "1"),
        file("new", "1"),
        file("new", "1"),
        with_md5(file("new", "1"), 9),
    ]);
    files.items.insert(
        1,
        Item {
            name: "bad".to_owned(),
            version: "1".to_owned(),
            file: Err(Invalid::Blank { what: "url" }),
        },
    );
    let answers = intake.admit(files, Via::Ens).await.unwrap();
    assert_eq!(codes(&answers), [300, 300, 100, 0, 200, 300]);
    let names: Vec<&str> = answers.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["denied", "bad", "old", "new", "new", "new"]);
    assert_eq!(answers[0].refusal, Some("source-denied"));
    assert!(answers[0].descrip.contains("not allowed"));
    assert_eq!(answers[1].refusal, Some("invalid-element"));
    assert!(answers[1].descrip.contains("url is blank"));
    assert!(answers.iter().all(|a| !a.descrip.contains("SECRET")));
    assert_eq!(
        job_count(&bench).await,
        2,
        "a refused element leaves no row"
    );
}

#[tokio::test]
async fn a_denied_source_does_not_matter_where_nothing_is_fetched() {
    let bench = Bench::new();
    bench.publish("n", "1").await;
    let policy = Policy(|_| Err((&DENIED, "no".to_owned())));
    let intake = Intake::new(bench.store.clone(), Config::default(), policy);
    assert_eq!(
        one(&intake, file("n", "1")).await.code,
        ResultCode::AlreadyPublished
    );
    assert_eq!(one(&intake, file("n", "2")).await.code, ResultCode::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_pushes_at_once_one_is_accepted_and_seven_are_in_progress() {
    let bench = Bench::new();
    let intake = Arc::new(auto(&bench));
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let intake = Arc::clone(&intake);
            tokio::spawn(async move { one(&intake, file("n", "1")).await.code.code() })
        })
        .collect();
    let mut codes = Vec::new();
    for call in calls {
        codes.push(call.await.unwrap());
    }
    codes.sort_unstable();
    assert_eq!(codes, [0, 200, 200, 200, 200, 200, 200, 200]);
}

#[tokio::test]
async fn pushing_a_published_version_again_flips_back_to_it_once() {
    let bench = Bench::new();
    let intake = auto(&bench);
    bench.publish("n", "1").await;
    bench.publish("n", "2").await;
    for _ in 0..3 {
        assert_eq!(
            one(&intake, file("n", "1")).await.code,
            ResultCode::AlreadyPublished
        );
        assert_eq!(
            waiting_flips(&bench).await,
            [(key("n", "1"), Reason::Repush)]
        );
    }
    carry_out_flips(&bench).await;
    one(&intake, file("n", "1")).await;
    assert!(waiting_flips(&bench).await.is_empty(), "it is live");
}

#[tokio::test]
async fn of_several_versions_in_one_push_the_last_shall_be_live() {
    let bench = Bench::new();
    let intake = auto(&bench);
    bench.publish("n", "1").await;
    bench.publish("n", "2").await;
    // A list of everything, pushed now and then: nothing flickers.
    let answers = admit(&intake, vec![file("n", "1"), file("n", "2")]).await;
    assert_eq!(codes(&answers), [100, 100]);
    assert!(waiting_flips(&bench).await.is_empty());
    admit(&intake, vec![file("n", "1"), file("n", "3")]).await;
    assert!(waiting_flips(&bench).await.is_empty(), "a newer one comes");
    admit(&intake, vec![file("n", "4"), file("n", "1")]).await;
    assert_eq!(
        waiting_flips(&bench).await,
        [(key("n", "1"), Reason::Repush)]
    );
    carry_out_flips(&bench).await;
    // And what was accepted before that word does not overtake it.
    let newer = bench
        .store
        .read(|r| jobs::latest(r, &key("n", "4")))
        .await
        .unwrap()
        .unwrap();
    let may = bench
        .store
        .read(move |r| activations::job_may_activate(r, &key("n", "4"), newer.id))
        .await;
    assert!(!may.unwrap());
    // Until it is pushed once more.
    let again = one(&intake, file("n", "4")).await;
    assert_eq!(
        (again.code, again.job),
        (ResultCode::InProgress, Some(newer.id))
    );
    let may = bench
        .store
        .read(move |r| activations::job_may_activate(r, &key("n", "4"), newer.id))
        .await;
    assert!(may.unwrap());
}

#[tokio::test]
async fn manual_activation_flips_nothing() {
    let bench = Bench::new();
    let intake = open_door(
        &bench,
        Config {
            activate: Activate::Manual,
            ..Config::default()
        },
    );
    bench.publish("n", "1").await;
    bench.publish("n", "2").await;
    assert_eq!(
        one(&intake, file("n", "1")).await.code,
        ResultCode::AlreadyPublished
    );
    assert!(waiting_flips(&bench).await.is_empty());
    let id = one(&intake, file("n", "3")).await.job.unwrap();
    let row = bench
        .store
        .read(move |r| jobs::get(r, id))
        .await
        .unwrap()
        .unwrap();
    assert!(!row.activate);
}

#[tokio::test]
async fn a_damaged_version_is_healed_by_the_same_content_only() {
    let bench = Bench::new();
    let intake = auto(&bench);
    bench.publish("n", "1").await;
    let damage = |tx: &Tx<'_>| releases::mark_damaged(tx, &key("n", "1"), Some("`a` is missing"));
    bench.store.write(damage).await.unwrap();
    let other = one(&intake, with_md5(file("n", "1"), 2)).await;
    assert_eq!(other.code, ResultCode::Refused);
    let healing = one(&intake, file("n", "1")).await;
    assert_eq!(healing.code, ResultCode::Accepted);
    assert_eq!(
        one(&intake, file("n", "1")).await.code,
        ResultCode::InProgress
    );
    bench.end(healing.job.unwrap(), published(true)).await;
    assert_eq!(
        one(&intake, file("n", "1")).await.code,
        ResultCode::AlreadyPublished
    );
}

#[tokio::test]
async fn a_whole_push_is_refused_for_its_application_its_region_or_its_length() {
    let bench = Bench::new();
    let config = Config {
        region: "cn-wuxi-5".to_owned(),
        apps: Only::These(vec![AppId::parse("other").unwrap()]),
        max_items: 1,
        ..Config::default()
    };
    let intake = open_door(&bench, config.clone());
    let refused = intake.admit(push(vec![file("n", "1")]), Via::Ens).await;
    assert!(matches!(refused, Err(Error::UnknownApp { .. })));
    intake.reload(Config {
        apps: Only::Any,
        ..config
    });
    let refused = intake
        .admit(push(vec![file("n", "1"), file("n", "2")]), Via::Ens)
        .await;
    assert!(matches!(refused, Err(Error::TooMany { count: 2, max: 1 })));
    let strategy = |operator: &str| {
        let json = format!(
            r#"{{"name":"ScheduleToRegionId","parameters":{{"operator":"{operator}","values":["cn-wuxi-5"]}}}}"#
        );
        Some(Strategy::parse(&json).unwrap())
    };
    let mut elsewhere = push(vec![file("n", "1")]);
    elsewhere.strategy = strategy("NotIn");
    let refused = intake.admit(elsewhere, Via::Ens).await;
    assert!(matches!(refused, Err(Error::NotSelected { .. })));
    assert_eq!(job_count(&bench).await, 0);
    let mut here = push(vec![file("n", "1")]);
    here.strategy = strategy("In");
    assert_eq!(codes(&intake.admit(here, Via::Ens).await.unwrap()), [0]);
}

#[tokio::test]
async fn a_store_that_cannot_write_refuses_the_push() {
    let bench = Bench::new();
    let intake = auto(&bench);
    bench.store.close().await;
    let refused = intake.admit(push(vec![file("n", "1")]), Via::Ens).await;
    assert!(matches!(
        refused,
        Err(Error::Unavailable(store::Error::Closed))
    ));
}

#[test]
fn the_configuration_names_any_application_or_a_list() {
    let read = |text: &str| toml::from_str::<Config>(text);
    assert_eq!(read("").unwrap(), Config::default());
    assert_eq!(read("apps = \"any\"").unwrap().apps, Only::Any);
    let listed = read("apps = [\"a\"]\nactivate = \"manual\"").unwrap();
    assert_eq!(listed.apps, Only::These(vec![AppId::parse("a").unwrap()]));
    assert_eq!(listed.activate, Activate::Manual);
    let text = toml::to_string(&listed).unwrap();
    assert_eq!(read(&text).unwrap(), listed);
    for bad in [
        "apps = \"all\"",
        "apps = [\"\"]",
        "activate = \"never\"",
        "regions = \"x\"",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn what_goes_before_a_push_is_written_with_it_and_may_refuse_it() {
    let bench = Bench::new();
    let intake = auto(&bench);
    let used = |nonce: &'static str| {
        move |tx: &Tx<'_>| crate::db::nonces::remember(tx, "key", nonce, NOW + 1000)
    };
    let pieces = bench.store.stats().pieces;
    let answers = intake
        .admit_with(push(vec![file("n", "1")]), Via::Ens, used("a"), |_, _| {
            Ok(())
        })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answers[0].code, ResultCode::Accepted);
    assert_eq!(
        bench.store.stats().pieces,
        pieces + 1,
        "one wait for the disk"
    );
    let again = intake.admit_with(push(vec![file("n", "2")]), Via::Ens, used("a"), |_, _| {
        Ok(())
    });
    assert_eq!(again.await.unwrap(), None);
    assert_eq!(job_count(&bench).await, 1, "nothing of it is written");
}

#[tokio::test]
async fn open_jobs_are_bounded_per_application_and_over_all() {
    let bench = Bench::new();
    let config = Config {
        max_open_jobs: 3,
        max_open_jobs_per_app: 2,
        ..Config::default()
    };
    let intake = open_door(&bench, config);
    let refusals = |answers: Vec<Answer>| -> Vec<_> { answers.iter().map(|a| a.refusal).collect() };
    let full = Some("too-many-open-jobs");
    let of_app = push(vec![file("a", "1"), file("b", "1"), file("c", "1")]);
    let answers = intake.admit(of_app, Via::Ens).await.unwrap();
    assert_eq!(refusals(answers), [None, None, full]);
    // What is open already is no new job.
    let again = push(vec![file("a", "1"), file("c", "1")]);
    let answers = intake.admit(again, Via::Ens).await.unwrap();
    assert_eq!(answers[0].code, ResultCode::InProgress);
    assert_eq!(refusals(answers), [None, full]);
    let other = |name: &str| {
        let mut file = file(name, "1");
        file.key.app = AppId::parse("other").unwrap();
        Push {
            app: file.key.app.clone(),
            ..push(vec![file])
        }
    };
    let answers = intake.admit(other("a"), Via::Ens).await.unwrap();
    assert_eq!(refusals(answers), [None]);
    let answers = intake.admit(other("b"), Via::Ens).await.unwrap();
    assert_eq!(refusals(answers), [full]);
}
