//! The query of `DescribeDataPushResult`: filters, days and pages.

use super::errors::Refusal;
use super::parameters::Parameters;
use super::time::stamp;
use crate::datafile::AppId;

/// Most rows of one answer: a larger page is cut to this size, which the answer's `PageSize` says.
pub const MAX_ROWS: usize = 1000;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// A query for the state of pushes. Filters are ANDed; an empty or absent one does not restrict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub app: AppId,
    pub names: Vec<String>,
    pub versions: Vec<String>,
    pub regions: Vec<String>,
    /// Pushed at or after this moment, in milliseconds since the epoch.
    pub since_ms: Option<i64>,
    /// Pushed before this moment.
    pub before_ms: Option<i64>,
    /// Absent: the first [`MAX_ROWS`] rows.
    pub page: Option<Paging>,
}

/// One page of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    /// From 1.
    pub number: usize,
    pub size: usize,
}

impl Query {
    /// Reads the query's parameters.
    pub fn read(parameters: &Parameters) -> Result<Self, Refusal> {
        Ok(Self {
            app: app(parameters)?,
            names: parameters.list("DataNames")?,
            versions: parameters.list("DataVersions")?,
            regions: parameters.list("RegionIds")?,
            since_ms: day(parameters, "MinDate")?,
            // The last day is included.
            before_ms: day(parameters, "MaxDate")?.map(|start| start + DAY_MS),
            page: paging(parameters)?,
        })
    }

    /// Writes the query's parameters.
    #[must_use]
    pub fn write(&self) -> Parameters {
        let mut parameters = Parameters::default();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                parameters.add(name, &value);
            }
        };
        let list = |values: &[String]| (!values.is_empty()).then(|| values.join(","));
        let day = |ms: i64| stamp(ms)[..10].to_owned();
        add("AppId", Some(self.app.to_string()));
        add("DataNames", list(&self.names));
        add("DataVersions", list(&self.versions));
        add("RegionIds", list(&self.regions));
        add("MinDate", self.since_ms.map(day));
        add("MaxDate", self.before_ms.map(|end| day(end - DAY_MS)));
        add("PageNumber", self.page.map(|page| page.number.to_string()));
        add("PageSize", self.page.map(|page| page.size.to_string()));
        parameters
    }

    /// Returns whether the query includes `region`.
    #[must_use]
    pub fn wants_region(&self, region: &str) -> bool {
        self.regions.is_empty() || self.regions.iter().any(|r| r == region)
    }
}

/// Reads the `AppId` that every action needs.
pub(super) fn app(parameters: &Parameters) -> Result<AppId, Refusal> {
    AppId::parse(parameters.required("AppId")?).map_err(|e| Refusal::parameter("AppId", e))
}

/// Returns the first millisecond of a UTC day.
fn day(parameters: &Parameters, name: &'static str) -> Result<Option<i64>, Refusal> {
    let Some(text) = parameters.optional(name)? else {
        return Ok(None);
    };
    let shape = text
        .bytes()
        .map(|b| if b.is_ascii_digit() { b'0' } else { b });
    let start = if shape.eq(*b"0000-00-00") {
        format!("{text}T00:00:00Z").parse::<jiff::Timestamp>().ok()
    } else {
        None
    };
    match start {
        Some(start) => Ok(Some(start.as_millisecond())),
        None => Err(Refusal::parameter(name, "Expected YYYY-MM-DD.")),
    }
}

fn paging(parameters: &Parameters) -> Result<Option<Paging>, Refusal> {
    let number = positive(parameters, "PageNumber")?;
    let size = positive(parameters, "PageSize")?;
    Ok(match (number, size) {
        (None, None) => None,
        _ => Some(Paging {
            number: number.unwrap_or(1),
            size: size.unwrap_or(10).min(MAX_ROWS),
        }),
    })
}

fn positive(parameters: &Parameters, name: &'static str) -> Result<Option<usize>, Refusal> {
    match parameters.integer(name)? {
        Some(0) => Err(Refusal::parameter(name, "It starts at 1.")),
        other => Ok(other.and_then(|n| usize::try_from(n).ok())),
    }
}

impl Paging {
    /// Returns how many rows come before this page.
    #[must_use]
    pub fn offset(self) -> usize {
        (self.number - 1).saturating_mul(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Query, String> {
        Query::read(&Parameters::read(query, b"").unwrap()).map_err(|e| e.code.name().into_owned())
    }

    #[test]
    fn reads_filters_and_days_with_both_ends() {
        let q = read("AppId=a&DataNames=x/y,z&RegionIds=r&MinDate=2026-01-02&MaxDate=2026-01-02")
            .unwrap();
        assert_eq!(q.names, ["x/y", "z"]);
        assert!(q.versions.is_empty());
        assert!(q.wants_region("r") && !q.wants_region("s"));
        assert_eq!(q.since_ms, Some(1_767_312_000_000));
        assert_eq!(q.before_ms, Some(1_767_312_000_000 + DAY_MS));
        assert!(read("AppId=a").unwrap().wants_region("any"));
        for query in [
            q,
            read("AppId=a").unwrap(),
            read("AppId=a&PageNumber=3").unwrap(),
        ] {
            assert_eq!(Query::read(&query.write()), Ok(query));
        }
    }

    #[test]
    fn pages_as_the_contract_says() {
        let page = |query: &str| read(&format!("AppId=a&{query}")).map(|q| q.page);
        let some = |number, size| Ok(Some(Paging { number, size }));
        assert_eq!(page(""), Ok(None));
        assert_eq!(page("PageNumber=&PageSize="), Ok(None));
        assert_eq!(page("PageNumber=3"), some(3, 10));
        assert_eq!(page("PageSize=7"), some(1, 7));
        assert_eq!(page("PageSize=1000"), some(1, 1000));
        assert_eq!(page("PageNumber=3&PageSize=1001"), some(3, 1000));
        assert_eq!(page("PageNumber=2&PageSize=3"), some(2, 3));
        let third = Paging { number: 3, size: 7 };
        assert_eq!(third.offset(), 14);
        for name in ["PageNumber", "PageSize"] {
            for value in ["0", "-1", "x", "1.0", "9999999999", "%2B1"] {
                let error = page(&format!("{name}={value}")).unwrap_err();
                assert_eq!(error, format!("InvalidParameter.{name}"), "{value}");
            }
        }
    }

    #[test]
    fn refuses_days_that_are_none() {
        for name in ["MinDate", "MaxDate"] {
            for value in [
                "01/02/2026",
                "2026-1-2",
                "2026-02-30",
                "2026-01-02T00:00:00Z",
                "x",
            ] {
                let error = read(&format!("AppId=a&{name}={value}")).unwrap_err();
                assert_eq!(error, format!("InvalidParameter.{name}"), "{value}");
            }
        }
        assert_eq!(read(""), Err("MissingAppId".to_owned()));
        assert_eq!(read("AppId=+"), Err("MissingAppId".to_owned()));
    }
}
