//! Generic netlink, as far as it takes to give the kernel's SMC a UEID.

use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

const NETLINK_GENERIC: i32 = 16;
const REQUEST: u16 = 0x01;
const ACKNOWLEDGE: u16 = 0x04;
/// Type of the message that answers a request: zero, or an error number.
const ERROR: u16 = 2;

/// The family that finds families, its command "get", and its attributes.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// The kernel's family for SMC: its commands "add UEID" and "remove UEID", and the attribute that
/// has it.
const SMC_FAMILY: &str = "SMC_GEN_NETLINK";
const ADD_UEID: u8 = 10;
const REMOVE_UEID: u8 = 11;
const UEID: u16 = 1;
/// A UEID on the wire: padded with blanks.
const UEID_LENGTH: usize = 32;

/// Adds a UEID; one that is there already is fine.
pub(crate) fn add_ueid(name: &str) -> Result<()> {
    about_ueid(ADD_UEID, name, libc::EEXIST)
}

/// Removes a UEID; one that is not there is fine.
pub(crate) fn remove_ueid(name: &str) -> Result<()> {
    about_ueid(REMOVE_UEID, name, libc::ENOENT)
}

fn about_ueid(command: u8, name: &str, fine: i32) -> Result<()> {
    ensure!(
        !name.is_empty() && name.len() <= UEID_LENGTH,
        "a UEID has 1 to {UEID_LENGTH} characters"
    );
    let mut socket = open()?;
    let family = family(&mut socket, SMC_FAMILY)?;
    let text = format!("{name:<UEID_LENGTH$}\0");
    request(&mut socket, family, command, UEID, text.as_bytes())?;
    match answer(&mut socket)? {
        Answer::Done => Ok(()),
        Answer::Refused(errno) if errno == fine => Ok(()),
        Answer::Refused(errno) => bail!("{}", io::Error::from_raw_os_error(errno)),
        Answer::Message(_) => bail!("an answer that was not asked for"),
    }
}

fn open() -> Result<Socket> {
    let domain = Domain::from(libc::AF_NETLINK);
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(NETLINK_GENERIC)));
    let socket = socket.context("netlink")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(socket)
}

/// The number by which a family is addressed.
fn family(socket: &mut Socket, name: &str) -> Result<u16> {
    let text = format!("{name}\0");
    request(socket, CONTROLLER, GET_FAMILY, FAMILY_NAME, text.as_bytes())?;
    let mut found = None;
    loop {
        match answer(socket)? {
            Answer::Message(attributes) => found = attribute(&attributes, FAMILY_ID),
            Answer::Done => break,
            Answer::Refused(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                bail!("no family {name} (is the module smc loaded?): {error}");
            }
        }
    }
    let bytes = found.context("a family without a number")?;
    Ok(u16::from_ne_bytes(
        bytes.get(..2).context("too short")?.try_into()?,
    ))
}

fn request(socket: &mut Socket, family: u16, command: u8, kind: u16, value: &[u8]) -> Result<()> {
    let mut message = Vec::new();
    let attribute = 4 + value.len();
    let length = 16 + 4 + attribute.next_multiple_of(4);
    message.extend((length as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend((REQUEST | ACKNOWLEDGE).to_ne_bytes());
    message.extend([0; 8]); // sequence and port: one request at a time
    message.extend([command, 1, 0, 0]); // the family's version is 1
    message.extend((attribute as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(length, 0);
    socket.write_all(&message).context("netlink")
}

enum Answer {
    Done,
    Refused(i32),
    /// The attributes of a message.
    Message(Vec<u8>),
}

fn answer(socket: &mut Socket) -> Result<Answer> {
    let mut buffer = vec![0; 8192];
    let count = socket.read(&mut buffer).context("netlink")?;
    let message = &buffer[..count];
    ensure!(message.len() >= 20, "a short answer");
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    if kind != ERROR {
        return Ok(Answer::Message(message[20..].to_vec()));
    }
    let errno = i32::from_ne_bytes(message[16..20].try_into()?);
    Ok(match errno {
        0 => Answer::Done,
        errno => Answer::Refused(-errno),
    })
}

fn attribute(mut attributes: &[u8], wanted: u16) -> Option<Vec<u8>> {
    while let [a, b, c, d, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        if u16::from_ne_bytes([c, d]) == wanted {
            return Some(attributes.get(4..length)?.to_vec());
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}
