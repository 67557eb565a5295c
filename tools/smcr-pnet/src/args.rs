//! The command line.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use lexopt::prelude::*;
use pnet::{Device, PnetId};

pub(crate) const HELP: &str = "\
Usage: smcr-pnet [-s [PNETID]]
       smcr-pnet -a PNETID [-I NETDEV] [-D DEVICE [-P PORT]]
       smcr-pnet -d PNETID [-I NETDEV] [-D DEVICE [-P PORT]]
       smcr-pnet -f
       smcr-pnet -r ADDRESS[:PORT] [--from ADDRESS]

Shows and changes the PNET table, which says what RDMA devices serve a network
interface: those that are listed under the same PNETID. Programs under libsmcr.so
notice changes within a second.

Options, of which those with a letter are those of smc_pnet(8):
  -s, --show [PNETID]     show the table, or what is listed under one PNETID; also
                          without any option. Per line: PNETID, netdev, RDMA device,
                          port; n/a and 255 stand for what a line is not about
  -a, --add PNETID        list a netdev, or a port of an RDMA device, or both
  -d, --delete PNETID     remove all that is listed under the PNETID, or only the
                          netdev and the port that are named
  -f, --flush             remove everything
  -I, --interface NETDEV  a network interface, as `ip link` shows it
  -D, --ibdevice DEVICE   an RDMA device, as `rdma link` shows it, or the name of its
                          hardware, as 0000:01:00.0
  -P, --ibport PORT       a port of it, 1 or 2; 1 without this option
  -r, --resolve ADDRESS   explain step by step which RDMA port would serve a connection
                          to this address, and if none, why
      --from ADDRESS      ... if the connection comes from this address of the host
  -t, --table FILE        use this table; else `pnet_table` of the configuration file
                          ($SMCR_CONFIG, else /etc/smcr.conf), else
                          /etc/smcr-pnet.conf
  -h, --help              this text
  -v, --version           the version

Exit status:
  0  all well
  1  the table or the configuration was refused, or could not be changed
  2  the command line was not understood
  3  --resolve: no RDMA port serves the connection
  4  the output could not be written
";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) action: Action,
    pub(crate) table: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Show(Option<PnetId>),
    Add(PnetId, Vec<Device>),
    Delete(PnetId, Vec<Device>),
    Flush,
    Resolve(Question),
    Help,
    Version,
}

/// A connection that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Port 0 stands for any.
    pub(crate) peer: SocketAddr,
    pub(crate) from: Option<IpAddr>,
}

/// What an option chose.
enum Chosen {
    Show,
    Add(PnetId),
    Delete(PnetId),
    Flush,
    Resolve(SocketAddr),
}

impl Args {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut chosen = None;
        let (mut shown, mut table, mut from) = (None, None, None);
        let (mut netdev, mut device, mut port) = (None, None, None);
        while let Some(arg) = parser.next()? {
            let option = match arg {
                Short('h') | Long("help") => return Ok(Self::only(Action::Help)),
                Short('v' | 'V') | Long("version") => return Ok(Self::only(Action::Version)),
                Short('s') | Long("show") => {
                    if let Some(id) = parser.optional_value() {
                        shown = Some(id.parse()?);
                    }
                    Chosen::Show
                }
                Short('a') | Long("add") => Chosen::Add(parser.value()?.parse()?),
                Short('d') | Long("delete") => Chosen::Delete(parser.value()?.parse()?),
                Short('f') | Long("flush") => Chosen::Flush,
                Short('r') | Long("resolve") => {
                    Chosen::Resolve(parser.value()?.parse_with(parse_peer)?)
                }
                Short('I') | Long("interface") => {
                    let name = parser.value()?.parse_with(Device::netdev)?;
                    once(&mut netdev, name, "-I")?;
                    continue;
                }
                Short('D') | Long("ibdevice") => {
                    once(&mut device, parser.value()?.string()?, "-D")?;
                    continue;
                }
                Short('P') | Long("ibport") => {
                    once(&mut port, parser.value()?.string()?, "-P")?;
                    continue;
                }
                Short('t') | Long("table") => {
                    once(&mut table, PathBuf::from(parser.value()?), "--table")?;
                    continue;
                }
                Long("from") => {
                    once(&mut from, parser.value()?.parse()?, "--from")?;
                    continue;
                }
                Value(id) if matches!(chosen, Some(Chosen::Show)) && shown.is_none() => {
                    shown = Some(id.parse()?);
                    continue;
                }
                other => return Err(other.unexpected()),
            };
            if chosen.replace(option).is_some() {
                return Err("use only one of -s, -a, -d, -f and -r".into());
            }
        }
        if port.is_some() && device.is_none() {
            return Err("-P is a port of the RDMA device that -D names: give both".into());
        }
        let mut devices: Vec<Device> = netdev.into_iter().collect();
        if let Some(device) = device {
            devices.push(roce(&device, port.as_deref())?);
        }
        let is_change = matches!(chosen, Some(Chosen::Add(_) | Chosen::Delete(_)));
        if !devices.is_empty() && !is_change {
            return Err("-I and -D go with -a or -d".into());
        }
        if from.is_some() && !matches!(chosen, Some(Chosen::Resolve(_))) {
            return Err("--from goes with --resolve".into());
        }
        let action = match chosen {
            None | Some(Chosen::Show) => Action::Show(shown),
            Some(Chosen::Add(_)) if devices.is_empty() => {
                return Err("what is to be added? Give -I NETDEV, -D DEVICE or both".into());
            }
            Some(Chosen::Add(id)) => Action::Add(id, devices),
            Some(Chosen::Delete(id)) => Action::Delete(id, devices),
            Some(Chosen::Flush) => Action::Flush,
            Some(Chosen::Resolve(peer)) => Action::Resolve(question(peer, from)?),
        };
        Ok(Self { action, table })
    }

    fn only(action: Action) -> Self {
        Self {
            action,
            table: None,
        }
    }
}

fn once<T>(place: &mut Option<T>, value: T, option: &str) -> Result<(), lexopt::Error> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{option} is given twice").into()),
    }
}

fn roce(device: &str, port: Option<&str>) -> Result<Device, lexopt::Error> {
    let port = port.unwrap_or("1");
    let number = port.parse().map_err(|_| bad_port(port))?;
    Device::roce(device, number).map_err(|problem| problem.to_string().into())
}

fn bad_port(port: &str) -> lexopt::Error {
    pnet::Problem::BadPort(port.to_owned()).to_string().into()
}

fn question(peer: SocketAddr, from: Option<IpAddr>) -> Result<Question, lexopt::Error> {
    match from {
        Some(from) if from.is_ipv4() != peer.is_ipv4() => {
            Err("both addresses must be of IPv4, or both of IPv6".into())
        }
        _ => Ok(Question { peer, from }),
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`, `[fe80::1%2]:80`.
fn parse_peer(text: &str) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 0));
    }
    let bracketed = format!("[{text}]:0");
    let scoped = bracketed.parse::<SocketAddrV6>().map(SocketAddr::from);
    scoped.or_else(|_| text.parse()).map_err(|_| {
        format!("`{text}` is no address: use one as 192.0.2.1, 192.0.2.1:80, 2001:db8::1 or [2001:db8::1]:80")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, String> {
        Args::parse(lexopt::Parser::from_args(args)).map_err(|e| e.to_string())
    }

    fn action(args: &[&str]) -> Action {
        parse(args).unwrap().action
    }

    fn id(text: &str) -> PnetId {
        text.parse().unwrap()
    }

    #[test]
    fn the_words_of_smc_pnet_are_understood() {
        let eth0 = || Device::netdev("eth0").unwrap();
        let mlx = |port| Device::roce("mlx5_0", port).unwrap();
        let pci = Device::roce("0001:00:00.0", 1).unwrap();
        for (words, expected) in [
            (&[][..], Action::Show(None)),
            (&["-s"], Action::Show(None)),
            (&["-s", "net1"], Action::Show(Some(id("NET1")))),
            (&["-snet1"], Action::Show(Some(id("NET1")))),
            (&["--show=net1"], Action::Show(Some(id("NET1")))),
            (
                &["-a", "abc", "-I", "eth0"],
                Action::Add(id("ABC"), vec![eth0()]),
            ),
            (
                &["-D", "mlx5_0", "-a", "abc"],
                Action::Add(id("ABC"), vec![mlx(1)]),
            ),
            (
                &[
                    "--add",
                    "abc",
                    "--interface",
                    "eth0",
                    "--ibdevice=mlx5_0",
                    "--ibport",
                    "2",
                ],
                Action::Add(id("ABC"), vec![eth0(), mlx(2)]),
            ),
            (
                &["-a", "X", "-D", "0001:00:00.0"],
                Action::Add(id("X"), vec![pci]),
            ),
            (&["-d", "abc"], Action::Delete(id("ABC"), vec![])),
            (
                &["-d", "abc", "-D", "mlx5_0", "-P2"],
                Action::Delete(id("ABC"), vec![mlx(2)]),
            ),
            (&["-f"], Action::Flush),
            (&["-v"], Action::Version),
            (&["--help"], Action::Help),
        ] {
            assert_eq!(action(words), expected, "{words:?}");
        }
        let args = parse(&["--table", "/x", "-f"]).unwrap();
        assert_eq!(args.table, Some("/x".into()));
    }

    #[test]
    fn addresses_are_understood() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1:0"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("fe80::1%3", "[fe80::1%3]:0"),
        ] {
            let peer = expected.parse().unwrap();
            let expected = Action::Resolve(Question { peer, from: None });
            assert_eq!(action(&["-r", text]), expected, "{text}");
        }
        let both = action(&["-r", "192.0.2.1", "--from", "192.0.2.2"]);
        assert!(matches!(
            both,
            Action::Resolve(Question { from: Some(_), .. })
        ));
    }

    #[test]
    fn nonsense_is_refused_with_a_remedy() {
        for (words, hint) in [
            (&["x"][..], "unexpected argument"),
            (&["-a"], "missing argument"),
            (&["-a", "a b", "-I", "eth0"], "1 to 16 letters"),
            (&["-a", "abc"], "Give -I NETDEV"),
            (&["-a", "abc", "-P", "1"], "-D names"),
            (&["-a", "abc", "-I", "a/b"], "ip link"),
            (&["-a", "abc", "-D", "a/b"], "rdma link"),
            (&["-a", "abc", "-D", "mlx5_0", "-P", "3"], "use 1 or 2"),
            (&["-a", "abc", "-D", "mlx5_0", "-P", "x"], "use 1 or 2"),
            (&["-a", "abc", "-I", "a", "-I", "b"], "-I is given twice"),
            (&["-a", "abc", "-d", "abc"], "only one of"),
            (&["-I", "eth0"], "go with -a or -d"),
            (&["-f", "-D", "mlx5_0"], "go with -a or -d"),
            (&["-s", "a", "b"], "unexpected argument"),
            (&["-r", "localhost"], "is no address"),
            (&["-r", "::1", "--from", "127.0.0.1"], "both of IPv6"),
            (&["--from", "127.0.0.1"], "goes with --resolve"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(hint), "{words:?}: {error}");
        }
    }
}
