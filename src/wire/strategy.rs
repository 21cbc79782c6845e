//! The regions that a call selects: the grammar that `PushStrategy`, `ServerFilterStrategy` and
//! `DistStrategy` share.
//!
//! ```json
//! {"name":"ScheduleToRegionId","parameters":{"operator":"In","values":["cn-wuxi-5"]}}
//! ```
//!
//! In an array of such objects all must hold. Whether a strategy selects an existing region is
//! decided by the caller, who knows the regions.

use serde_json::{Value, json};

use super::json::show;

/// Most region names that one strategy may state.
const MAX_VALUES: usize = 10_000;

/// A set of regions, as rules that all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strategy(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// What is wrong with a strategy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StrategyError(String);

impl Strategy {
    /// Parses a strategy from its JSON text.
    pub fn parse(json: &str) -> Result<Self, StrategyError> {
        let value: Value =
            serde_json::from_str(json).map_err(|e| StrategyError(format!("not JSON: {e}")))?;
        Self::from_value(&value)
    }

    /// Parses a strategy from JSON that is parsed already.
    pub fn from_value(value: &Value) -> Result<Self, StrategyError> {
        let one = std::slice::from_ref(value);
        let strategies = value.as_array().map_or(one, Vec::as_slice);
        let mut rules = Vec::new();
        for strategy in strategies {
            read_strategy(strategy, &mut rules).map_err(StrategyError)?;
        }
        if rules.is_empty() {
            return Err(StrategyError("expected at least one strategy".to_owned()));
        }
        Ok(Self(rules))
    }

    /// Writes the strategy as JSON text.
    #[must_use]
    pub fn write(&self) -> String {
        let rules: Vec<Value> = self.0.iter().map(Rule::to_value).collect();
        match rules.as_slice() {
            [one] => one.to_string(),
            _ => Value::Array(rules).to_string(),
        }
    }

    /// Returns whether `region` is selected.
    #[must_use]
    pub fn selects(&self, region: &str) -> bool {
        self.0.iter().all(|rule| match rule {
            Rule::In(regions) => regions.iter().any(|r| r == region),
            Rule::NotIn(regions) => regions.iter().all(|r| r != region),
        })
    }
}

impl Rule {
    fn to_value(&self) -> Value {
        let (operator, values) = match self {
            Self::In(values) => ("In", values),
            Self::NotIn(values) => ("NotIn", values),
        };
        json!({
            "name": "ScheduleToRegionId",
            "parameters": {"operator": operator, "values": values},
        })
    }
}

fn read_strategy(strategy: &Value, rules: &mut Vec<Rule>) -> Result<(), String> {
    let name = text(strategy, "name")?;
    let parameters = strategy.get("parameters").ok_or("parameters is missing")?;
    match name {
        "ScheduleToRegionId" => rules.push(read_rule(parameters)?),
        "ScheduleToAllByMatchExpressions" => read_expressions(parameters, rules)?,
        other => {
            return Err(format!(
                "name is `{}`, expected `ScheduleToRegionId` or `ScheduleToAllByMatchExpressions`",
                crate::datafile::shorten(other)
            ));
        }
    }
    Ok(())
}

fn read_expressions(parameters: &Value, rules: &mut Vec<Rule>) -> Result<(), String> {
    let expressions = parameters
        .get("match_expressions")
        .and_then(Value::as_array)
        .filter(|list| !list.is_empty())
        .ok_or("match_expressions: expected an array with at least one element")?;
    for expression in expressions {
        let key = text(expression, "key")?;
        if key != "region_id" {
            return Err(format!(
                "key is `{}`, expected `region_id`",
                crate::datafile::shorten(key)
            ));
        }
        rules.push(read_rule(expression)?);
    }
    Ok(())
}

fn read_rule(rule: &Value) -> Result<Rule, String> {
    let operator = text(rule, "operator")?;
    let values = rule
        .get("values")
        .and_then(Value::as_array)
        .filter(|values| (1..=MAX_VALUES).contains(&values.len()))
        .ok_or_else(|| format!("values: expected an array of 1 to {MAX_VALUES} region ids"))?;
    let values = values
        .iter()
        .map(|value| match value.as_str() {
            Some(region) if !region.trim().is_empty() => Ok(region.to_owned()),
            _ => Err(format!(
                "values holds {}, expected a region id",
                show(value)
            )),
        })
        .collect::<Result<Vec<_>, _>>()?;
    match operator {
        "In" => Ok(Rule::In(values)),
        "NotIn" => Ok(Rule::NotIn(values)),
        other => Err(format!(
            "operator is `{}`, expected `In` or `NotIn`",
            crate::datafile::shorten(other)
        )),
    }
}

fn text<'a>(object: &'a Value, key: &str) -> Result<&'a str, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("{key} is {}, expected a string", show(other))),
        None if object.is_object() => Err(format!("{key} is missing")),
        None => Err(format!("{} where an object was expected", show(object))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region_id(operator: &str, values: &str) -> String {
        format!(
            r#"{{"name":"ScheduleToRegionId","parameters":{{"operator":"{operator}","values":{values}}}}}"#
        )
    }

    #[test]
    fn selects_what_it_says() {
        let only_a = region_id("In", r#"["a","none"]"#);
        let not_b = region_id("NotIn", r#"["b"]"#);
        let a_or_b = region_id("In", r#"["a","b"]"#);
        let both = format!("[{a_or_b},{not_b}]");
        let dist = r#"{"name":"ScheduleToAllByMatchExpressions","parameters":{"match_expressions":[
            {"key":"region_id","operator":"In","values":["a","b"]},{"key":"region_id","operator":"NotIn","values":["a"]}]}}"#;
        for (json, want) in [
            (only_a.as_str(), [true, false, false]),
            (&not_b, [true, false, true]),
            (&a_or_b, [true, true, false]),
            (&both, [true, false, false]),
            (dist, [false, true, false]),
        ] {
            let strategy = Strategy::parse(json).unwrap();
            assert_eq!(["a", "b", "c"].map(|r| strategy.selects(r)), want, "{json}");
            assert_eq!(Strategy::parse(&strategy.write()), Ok(strategy));
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let moon = region_id("In", r#"["a"]"#).replace("ScheduleToRegionId", "ScheduleToMoon");
        let isp = region_id("In", r#"["telecom"]"#).replace("ScheduleToRegionId", "ScheduleToISP");
        let key = r#"{"name":"ScheduleToAllByMatchExpressions","parameters":{"match_expressions":[{"key":"zone","operator":"In","values":["a"]}]}}"#;
        for bad in [
            "",
            "{",
            "3",
            "null",
            "[]",
            "[3]",
            "[[]]",
            "{}",
            r#"{"name":"ScheduleToRegionId"}"#,
            r#"{"name":"ScheduleToRegionId","parameters":3}"#,
            r#"{"name":"ScheduleToRegionId","parameters":{"operator":"In"}}"#,
            r#"{"name":"ScheduleToAllByMatchExpressions","parameters":{"match_expressions":[]}}"#,
            key,
            &region_id("In", "[]"),
            &region_id("In", "\"a\""),
            &region_id("In", "[\"\"]"),
            &region_id("In", "[1]"),
            &region_id("Like", r#"["a"]"#),
            &moon,
            &isp,
        ] {
            assert!(Strategy::parse(bad).is_err(), "{bad}");
        }
    }
}
