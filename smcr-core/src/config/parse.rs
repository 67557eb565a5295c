//! From text to [`Config`].

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::error::{ErrorKind, nearest};
use super::rule::{Network, Rule, VERDICTS, Verdict};
use super::{Config, SmcrVersion, Users};
use crate::clc::{Bounded, Eid};
use crate::handshake::rdma::MAX_UEIDS;

/// All settings.
pub(super) const KEYS: &[&str] = &[
    "ring_size",
    "max_connections",
    "max_memory",
    "spin_us",
    "handshake_timeout_ms",
    "users",
    "ask_networks",
    "ueid",
    "smcr_version",
    "smcr_release",
    "max_group_connections",
    "default",
    "pnet_table",
    "rule",
];

const USERS: &[&str] = &["same", "any"];

const SMCR_VERSIONS: &[&str] = &["any", "1", "2"];

const RING_SIZES: &str = "16K, 32K, 64K, ... 512M (powers of two)";

/// Understands a whole file; the error comes with its line, from 1.
pub(super) fn parse(text: &str) -> Result<Config, (usize, ErrorKind)> {
    let mut config = Config::default();
    // The line in which each of `KEYS` was set.
    let mut set_in = [None; KEYS.len()];
    for (line, text) in (1..).zip(text.lines()) {
        let text = without_comment(text).trim();
        if !text.is_empty() {
            parse_line(text, line, &mut config, &mut set_in).map_err(|kind| (line, kind))?;
        }
    }
    if config.max_memory < u64::from(config.ring_size) {
        // The later of the two lines made it so; at least one of them differs from the default.
        let line = set_in[0].max(set_in[2]).unwrap_or(1);
        return Err((line, ErrorKind::MemoryBelowRing));
    }
    Ok(config)
}

fn parse_line(
    text: &str,
    line: usize,
    config: &mut Config,
    set_in: &mut [Option<usize>; KEYS.len()],
) -> Result<(), ErrorKind> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if word == "rule" && !rest.trim_start().starts_with('=') {
        config.rules.push(Rule::parse(rest)?);
        return Ok(());
    }
    let Some((key, value)) = text.split_once('=') else {
        return Err(match KEYS.contains(&word) {
            true => ErrorKind::NotASetting,
            false => unknown_key(word),
        });
    };
    let (key, value) = (key.trim(), value.trim());
    // A mistyped `rule` has an equals sign in its conditions.
    let first = key.split_whitespace().next().unwrap_or_default();
    if first != key {
        return Err(match KEYS.contains(&first) {
            true => ErrorKind::NotASetting,
            false => unknown_key(first),
        });
    }
    let Some(index) = KEYS.iter().position(|k| *k == key) else {
        return Err(match key.is_empty() {
            true => ErrorKind::NotASetting,
            false => unknown_key(key),
        });
    };
    let key = KEYS[index];
    if let Some(first) = set_in[index].replace(line) {
        return Err(ErrorKind::RepeatedKey { key, first });
    }
    match key {
        "ring_size" => {
            let size = parse_size(key, value, (16 << 10)..=(512 << 20), RING_SIZES)?;
            if !size.is_power_of_two() {
                return Err(out_of_range(key, value, RING_SIZES));
            }
            config.ring_size =
                u32::try_from(size).map_err(|_| out_of_range(key, value, RING_SIZES))?;
        }
        "max_connections" => {
            config.max_connections = parse_number(key, value, 1..=1 << 20, "1..=1048576")?;
        }
        "max_memory" => {
            config.max_memory = parse_size(key, value, (16 << 10)..=(1 << 50), "16K..=1048576G")?;
        }
        "spin_us" => config.spin_us = parse_number(key, value, 0..=1000, "0..=1000")?,
        "handshake_timeout_ms" => {
            config.handshake_timeout_ms = parse_number(key, value, 10..=60000, "10..=60000")?;
        }
        "users" => config.users = Users::ALL[parse_word(key, value, USERS)?],
        "ask_networks" => {
            let networks = value.split(',').map(|text| Network::parse(text.trim()));
            config.ask_networks = networks.collect::<Result<_, _>>()?;
        }
        "ueid" => config.ueids = parse_ueids(value)?,
        "smcr_version" => {
            config.smcr_version = SmcrVersion::ALL[parse_word(key, value, SMCR_VERSIONS)?];
        }
        "smcr_release" => config.smcr_release = parse_number(key, value, 0..=1, "0..=1")?,
        "max_group_connections" => {
            let number = parse_number(key, value, 16..=255, "16..=255")?;
            config.max_group_connections =
                u8::try_from(number).map_err(|_| out_of_range(key, value, "16..=255"))?;
        }
        "default" => config.default = Verdict::ALL[parse_word(key, value, VERDICTS)?],
        "pnet_table" => config.pnet_table = parse_path(key, value)?,
        // `rule = ...`
        _ => return Err(ErrorKind::NotASetting),
    }
    Ok(())
}

/// The line without its comment, which begins with a `#` at the start or after a blank.
fn without_comment(line: &str) -> &str {
    let begins = |at: &usize| {
        line[..*at]
            .chars()
            .next_back()
            .is_none_or(char::is_whitespace)
    };
    let mut signs = line.match_indices('#').map(|(at, _)| at);
    signs.find(begins).map_or(line, |at| &line[..at])
}

fn unknown_key(key: &str) -> ErrorKind {
    ErrorKind::UnknownKey {
        key: key.to_owned(),
        nearest: nearest(key, KEYS),
    }
}

fn out_of_range(key: &'static str, value: &str, range: &'static str) -> ErrorKind {
    ErrorKind::OutOfRange {
        key,
        value: value.to_owned(),
        range,
    }
}

/// The place of `word` among the `valid` ones.
pub(super) fn parse_word(
    key: &'static str,
    word: &str,
    valid: &'static [&'static str],
) -> Result<usize, ErrorKind> {
    let place = valid.iter().position(|v| *v == word);
    place.ok_or_else(|| ErrorKind::UnknownWord {
        key,
        word: word.to_owned(),
        valid,
        nearest: nearest(word, valid),
    })
}

/// Enterprise IDs, separated by commas.
fn parse_ueids(value: &str) -> Result<Bounded<Eid, MAX_UEIDS>, ErrorKind> {
    let mut eids: Vec<Eid> = Vec::new();
    for name in value.split(',').map(str::trim) {
        let bad = || ErrorKind::BadUeid(name.to_owned());
        let eid = Eid::new(name).map_err(|_| bad())?;
        if eids.contains(&eid) {
            return Err(bad());
        }
        eids.push(eid);
    }
    Bounded::new(eids).ok_or_else(|| ErrorKind::BadUeid(value.to_owned()))
}

/// The path of a file. Programs run in all directories, so a relative one would mean many files.
fn parse_path(key: &'static str, value: &str) -> Result<PathBuf, ErrorKind> {
    if !value.starts_with('/') || value.ends_with('/') || value.contains('\0') {
        return Err(ErrorKind::NotAPath {
            key,
            value: value.to_owned(),
        });
    }
    Ok(value.into())
}

/// A number in digits.
fn digits(text: &str) -> Option<u128> {
    // So long that no sum of them overflows, and longer than any valid value.
    let plain = text.len() <= 30 && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn parse_number(
    key: &'static str,
    value: &str,
    valid: RangeInclusive<u32>,
    range: &'static str,
) -> Result<u32, ErrorKind> {
    let number = digits(value).ok_or_else(|| ErrorKind::NotANumber {
        key,
        value: value.to_owned(),
        expected: "a whole number",
    })?;
    let number = u32::try_from(number).ok().filter(|n| valid.contains(n));
    number.ok_or_else(|| out_of_range(key, value, range))
}

/// A size: a number, or one with K, M or G behind it.
fn parse_size(
    key: &'static str,
    value: &str,
    valid: RangeInclusive<u64>,
    range: &'static str,
) -> Result<u64, ErrorKind> {
    let (number, shift) = match value.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&value[..at], 10),
        Some((at, 'm' | 'M')) => (&value[..at], 20),
        Some((at, 'g' | 'G')) => (&value[..at], 30),
        _ => (value, 0),
    };
    let number = digits(number).ok_or_else(|| ErrorKind::NotANumber {
        key,
        value: value.to_owned(),
        expected: "a size, as 65536, 256K, 16M or 4G",
    })?;
    // 30 digits have less than 100 bits.
    let size = u64::try_from(number << shift).ok();
    size.filter(|size| valid.contains(size))
        .ok_or_else(|| out_of_range(key, value, range))
}
