//! The harness's own parts: that a difference is found, and excused only when listed.

use libtest_mimic::{Failed, Trial};

use crate::compare::{self, Line};
use crate::known::Known;

/// Trials of the harness itself.
pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("harness::a_changed_line_is_found", changed_line),
        Trial::test("harness::a_known_difference_is_excused", known_difference),
        Trial::test("harness::a_known_end_is_excused", known_end),
        Trial::test("harness::a_stale_record_is_reported", stale_record),
        Trial::test("harness::a_bad_record_is_refused", bad_record),
    ]
}

fn lines(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn expect(condition: bool, what: &str) -> Result<(), Failed> {
    if condition { Ok(()) } else { Err(what.into()) }
}

fn changed_line() -> Result<(), Failed> {
    let diff = compare::diff(&lines("a b c d"), &lines("a x c"));
    let want = vec![
        Line::Same("a".into()),
        Line::Plain("b".into()),
        Line::Library("x".into()),
        Line::Same("c".into()),
        Line::Plain("d".into()),
    ];
    expect(diff == want, &format!("{diff:?}"))?;
    let same = compare::diff(&lines("a b"), &lines("a b"));
    expect(!same.iter().any(Line::differs), "equal transcripts differ")
}

const RECORD: &str = "\
# comment
scenario: one
variant: O0
plain: b
library: x
reason: because
";

fn known_difference() -> Result<(), Failed> {
    let known = Known::parse(RECORD)?;
    let diff = || compare::diff(&lines("a b c"), &lines("a x c"));
    let here = known.explain("one", "O0", None, diff());
    expect(
        here.unknown.is_empty() && here.unused.is_empty(),
        "the record does not excuse its difference",
    )?;
    let elsewhere = known.explain("one", "eager", None, diff());
    expect(
        !elsewhere.unknown.is_empty(),
        "the record excuses another variant",
    )?;
    let more = known.explain(
        "one",
        "O0",
        None,
        compare::diff(&lines("a b c"), &lines("a x")),
    );
    expect(!more.unknown.is_empty(), "the record excuses another line")
}

fn known_end() -> Result<(), Failed> {
    let known = Known::parse("scenario: one\nend: killed\nplain: b\nreason: because\n")?;
    let diff = || compare::diff(&lines("a b c"), &lines("a"));
    let here = known.explain("one", "O0", Some("killed by a signal"), diff());
    expect(
        here.unknown.is_empty() && here.unused.is_empty() && here.bad_end.is_none(),
        "the record does not excuse the end",
    )?;
    let other = known.explain("one", "O0", Some("not finished"), diff());
    expect(
        other.unused.len() == 1 && other.bad_end.is_some() && !other.unknown.is_empty(),
        "the record excuses another end",
    )?;
    let good = known.explain("one", "O0", None, Vec::new());
    expect(good.unused.len() == 1, "the record is not reported")?;
    let diff = compare::diff(&lines("a b c"), &lines("a c"));
    let later = known.explain("one", "O0", Some("killed by a signal"), diff);
    expect(
        later.unused.len() == 1,
        "the record excuses a line amid others",
    )
}

fn stale_record() -> Result<(), Failed> {
    let known = Known::parse(RECORD)?;
    let equal = known.explain(
        "one",
        "O0",
        None,
        compare::diff(&lines("a b"), &lines("a b")),
    );
    expect(equal.unused.len() == 1, "the record is not reported")?;
    expect(
        known.check_names(["two"].into_iter()).is_err(),
        "the record of no scenario is not reported",
    )
}

fn bad_record() -> Result<(), Failed> {
    for text in [
        "scenario: one\nplain: b\n",
        "scenario: one\nreason: because\n",
        "plain: b\nreason: because\n",
        "scenario: one\nplain: b\nreason: because\nvariant: none\n",
        "scenario: one\nlibrary: b\nend: killed\nreason: because\n",
        "scenario: one\nplane: b\nreason: because\n",
        "not a record\n",
    ] {
        expect(Known::parse(text).is_err(), text)?;
    }
    Ok(())
}
