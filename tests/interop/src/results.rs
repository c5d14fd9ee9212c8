//! What the guest's result lines say.
//!
//! A suite writes `plan N` once and then `ok NAME`, `skip NAME: why` or `not ok NAME: why` for each check. It passed
//! when exactly N checks ran and none is `not ok`; a skip counts as a failure unless the guest tests its own target.

/// A suite's results.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Results {
    /// How many checks the suite promised.
    pub plan: Option<usize>,
    /// Names that passed.
    pub passed: Vec<String>,
    /// `NAME: why` of what was skipped.
    pub skipped: Vec<String>,
    /// `NAME: why` of what failed.
    pub failed: Vec<String>,
}

impl Results {
    /// Reads the guest's lines; others are passed over.
    pub fn parse(text: &str) -> Self {
        let mut results = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("ok ") {
                results.passed.push(rest.to_owned());
            } else if let Some(rest) = line.strip_prefix("skip ") {
                results.skipped.push(rest.to_owned());
            } else if let Some(rest) = line.strip_prefix("not ok ") {
                results.failed.push(rest.to_owned());
            } else if let Some(rest) = line.strip_prefix("plan ") {
                results.plan = rest.trim().parse().ok();
            }
        }
        results
    }

    /// Everything that keeps this from being a pass, one sentence each.
    pub fn faults(&self, skips_allowed: bool) -> Vec<String> {
        let mut faults: Vec<String> = self.failed.iter().map(|what| format!("failed: {what}")).collect();
        if !skips_allowed {
            faults.extend(self.skipped.iter().map(|what| format!("skipped: {what}")));
        }
        let ran = self.passed.len() + self.skipped.len() + self.failed.len();
        match self.plan {
            None => faults.push("the suite did not say how many checks it holds".into()),
            Some(plan) if plan != ran => faults.push(format!("{ran} checks ran of {plan}")),
            Some(_) => {}
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ok_is_a_pass() {
        assert!(Results::parse("plan 2\nok a\nok b\n").faults(false).is_empty());
    }

    #[test]
    fn too_few_checks_are_a_fault() {
        assert_eq!(Results::parse("plan 3\nok a\nok b\n").faults(false), ["2 checks ran of 3"]);
    }

    #[test]
    fn no_plan_is_a_fault() {
        assert_eq!(Results::parse("").faults(false).len(), 1);
    }

    #[test]
    fn skips_count_only_where_allowed() {
        let results = Results::parse("plan 2\nok a\nskip b: no such command\n");
        assert!(results.faults(true).is_empty());
        assert_eq!(results.faults(false), ["skipped: b: no such command"]);
    }

    #[test]
    fn a_failure_is_named() {
        assert_eq!(Results::parse("plan 1\nnot ok a: because\n").faults(true), ["failed: a: because"]);
    }
}
