//! A rule, and what its conditions match.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::error::ErrorKind;
use super::parse::parse_word;

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It moves to SMC, if the peer can.
    Smc,
    /// It stays on TCP.
    Tcp,
}

/// The words for [`Verdict::ALL`].
pub(super) const VERDICTS: &[&str] = &["smc", "tcp"];

const CONDITIONS: &[&str] = &["program", "port", "network"];

/// One line of rules. An empty list stands for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) verdict: Verdict,
    programs: Vec<String>,
    ports: Vec<RangeInclusive<u16>>,
    networks: Vec<Network>,
    /// Whether `programs` has been compared with the program at hand.
    is_selected: bool,
}

/// A network in CIDR notation; `bits` beyond the prefix are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Verdict {
    pub(super) const ALL: &[Self] = &[Self::Smc, Self::Tcp];

    /// The word in the file.
    pub const fn name(self) -> &'static str {
        VERDICTS[self as usize]
    }
}

impl Rule {
    /// Understands what follows the word `rule`.
    pub(super) fn parse(text: &str) -> Result<Self, ErrorKind> {
        let mut words = text.split_whitespace();
        let verdict = words.next().ok_or(ErrorKind::NotASetting)?;
        let mut rule = Self {
            verdict: Verdict::ALL[parse_word("verdict", verdict, VERDICTS)?],
            programs: Vec::new(),
            ports: Vec::new(),
            networks: Vec::new(),
            is_selected: false,
        };
        for word in words {
            let (name, values) = word
                .split_once('=')
                .ok_or_else(|| ErrorKind::NotACondition(word.to_owned()))?;
            let values = values.split(',');
            let condition = parse_word("condition", name, CONDITIONS)?;
            let is_new = match condition {
                0 => append(&mut rule.programs, values.map(parse_program))?,
                1 => append(&mut rule.ports, values.map(parse_ports))?,
                _ => append(&mut rule.networks, values.map(Network::parse))?,
            };
            if !is_new {
                return Err(ErrorKind::RepeatedCondition(CONDITIONS[condition]));
            }
        }
        rule.is_selected = rule.programs.is_empty();
        Ok(rule)
    }

    /// Whether the rule can match in the program `exe`, an absolute path; if so it needs no more
    /// comparing.
    pub(super) fn select(&mut self, exe: &[u8]) -> bool {
        let name = base_name(exe);
        let fits = |pattern: &String| {
            let text = if pattern.starts_with('/') { exe } else { name };
            glob(pattern.as_bytes(), text)
        };
        self.is_selected = self.programs.is_empty() || self.programs.iter().any(fits);
        self.is_selected
    }

    /// Whether it is about certain programs.
    pub(super) fn names_programs(&self) -> bool {
        !self.programs.is_empty()
    }

    /// `peer` is in canonical form: no IPv4-mapped IPv6 address.
    pub(super) fn matches(&self, port: u16, peer: IpAddr) -> bool {
        self.is_selected
            && (self.ports.is_empty() || self.ports.iter().any(|range| range.contains(&port)))
            && (self.networks.is_empty() || self.networks.iter().any(|net| net.contains(peer)))
    }
}

/// What follows the last slash.
pub(super) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Fills `list`; false if there is something in it already.
fn append<T>(
    list: &mut Vec<T>,
    values: impl Iterator<Item = Result<T, ErrorKind>>,
) -> Result<bool, ErrorKind> {
    let is_new = list.is_empty();
    for value in values {
        list.push(value?);
    }
    Ok(is_new)
}

fn parse_program(text: &str) -> Result<String, ErrorKind> {
    match text.is_empty() || (text.contains('/') && !text.starts_with('/')) {
        true => Err(ErrorKind::BadProgram(text.to_owned())),
        false => Ok(text.to_owned()),
    }
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, ErrorKind> {
    let bad = || ErrorKind::BadPort(text.to_owned());
    let port = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        let port = plain.then(|| text.parse().ok()).flatten();
        port.filter(|port| *port != 0).ok_or_else(bad)
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (port(from)?, port(to)?);
    (from <= to).then_some(from..=to).ok_or_else(bad)
}

impl Network {
    pub(super) fn parse(text: &str) -> Result<Self, ErrorKind> {
        let bad = || ErrorKind::BadNetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let mut longest = width(address);
        let mut prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                let prefix = digits.parse().map_err(|_| bad())?;
                Some(prefix).filter(|p| *p <= longest).ok_or_else(bad)?
            }
            Some(_) => return Err(bad()),
            None => longest,
        };
        // ::ffff:10.0.0.0/104 is 10.0.0.0/8. A shorter prefix contains more than IPv4 and stays.
        let canonical = address.to_canonical();
        if canonical != address && prefix >= 96 {
            prefix -= 96;
            longest = 32;
        }
        let address = if longest == 32 { canonical } else { address };
        let network = Self {
            address: masked(address, prefix),
            prefix,
        };
        if network.address != address {
            return Err(ErrorKind::HostBits {
                network: text.to_owned(),
                meant: network.to_string(),
            });
        }
        Ok(network)
    }

    /// `address` is in canonical form.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let same_family = self.address.is_ipv4() == address.is_ipv4();
        same_family && masked(address, self.prefix) == self.address
    }
}

/// Bits of an address.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first `prefix` bits of `address`, the others 0.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let drop = u32::from(width(address) - prefix);
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(drop).unwrap_or(0);
            IpAddr::V4((a.to_bits() & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(drop).unwrap_or(0);
            IpAddr::V6((a.to_bits() & mask).into())
        }
    }
}

/// Whether `text` is what `pattern` says, where `*` stands for any characters.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star: where the pattern goes on, and where the text was tried last.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, t));
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.verdict.name())?;
        let ports = self.ports.iter().map(|range| {
            let (from, to) = (range.start(), range.end());
            if from == to {
                from.to_string()
            } else {
                format!("{from}-{to}")
            }
        });
        let networks = self.networks.iter().map(Network::to_string);
        let lists = [self.programs.clone(), ports.collect(), networks.collect()];
        for (name, values) in CONDITIONS.iter().zip(lists) {
            if !values.is_empty() {
                write!(f, " {name}={}", values.join(","))?;
            }
        }
        Ok(())
    }
}
