//! Every state against every type of message.

use super::*;

const MESSAGES: [&[u8]; 4] = [PROPOSAL_SHM, ACCEPT_SHM, CONFIRM_SHM, DECLINE_V2];

/// What a message did: bytes taken and the phase after it, or the error.
type Outcome = Result<(usize, Phase), HandshakeError>;

fn at_client(mut client: ShmClient, bytes: &[u8]) -> Outcome {
    let taken = client.handle_bytes(bytes, Instant::now())?;
    Ok((taken, client.phase()))
}

fn at_server(mut server: ShmServer, bytes: &[u8]) -> Outcome {
    let taken = server.handle_bytes(bytes, Instant::now())?;
    Ok((taken, server.phase()))
}

fn row(outcome: impl Fn(&[u8]) -> Outcome) -> [Outcome; 4] {
    MESSAGES.map(outcome)
}

fn unexpected(expected: Kind, got: Kind) -> Outcome {
    Err(HandshakeError::Unexpected { expected, got })
}

#[test]
fn client_states() {
    let now = Instant::now();
    let deciding = || {
        let mut client = waiting_client(now);
        client.handle_bytes(ACCEPT_SHM, now).unwrap();
        client
    };
    let done = || {
        let mut client = deciding();
        client.confirm(buffer(&identity(0x11), 1)).unwrap();
        client
    };
    let tcp = || {
        let mut client = waiting_client(now);
        client.handle_bytes(DECLINE_V1, now).unwrap();
        client
    };
    let expecting = [
        unexpected(Kind::Accept, Kind::Proposal),
        Ok((ACCEPT_SHM.len(), Phase::Deciding)),
        unexpected(Kind::Accept, Kind::Confirm),
        Ok((DECLINE_V2.len(), Phase::Tcp)),
    ];
    assert_eq!(row(|bytes| at_client(client(now), bytes)), expecting);
    assert_eq!(
        row(|bytes| at_client(waiting_client(now), bytes)),
        expecting
    );
    // From here on nothing in the stream is the machine's.
    assert_eq!(
        row(|bytes| at_client(deciding(), bytes)),
        [Ok((0, Phase::Deciding)); 4]
    );
    assert_eq!(
        row(|bytes| at_client(done(), bytes)),
        [Ok((0, Phase::Done)); 4]
    );
    assert_eq!(
        row(|bytes| at_client(tcp(), bytes)),
        [Ok((0, Phase::Tcp)); 4]
    );
    let failed = || {
        let mut client = waiting_client(now);
        client.handle_end().unwrap_err();
        client
    };
    assert_eq!(
        row(|bytes| at_client(failed(), bytes)),
        [Err(HandshakeError::Ended(Kind::Accept)); 4]
    );
    let mut failed = failed();
    assert_eq!(
        (failed.phase(), failed.needed(), failed.poll_timeout()),
        (Phase::Failed, 0, None)
    );
    assert_eq!(failed.decline(Reason::Memory), Err(CallError::Phase));
    assert_eq!(
        failed.handle_timeout(now),
        Err(HandshakeError::Ended(Kind::Accept))
    );
    assert_eq!(
        failed.handle_end(),
        Err(HandshakeError::Ended(Kind::Accept))
    );
}

#[test]
fn server_states() {
    let now = Instant::now();
    let accepted = || {
        let mut server = deciding_server(now);
        server
            .accept(buffer(&identity(0x11), 1), false, now)
            .unwrap();
        server
    };
    let done = || {
        let mut server = accepted();
        server.handle_bytes(CONFIRM_SHM, now).unwrap();
        server
    };
    let tcp = || {
        let mut server = server(now);
        server.handle_bytes(DECLINE_V1, now).unwrap();
        server
    };
    let failed = || {
        let mut server = server(now);
        server.handle_end().unwrap_err();
        server
    };
    assert_eq!(
        row(|bytes| at_server(server(now), bytes)),
        [
            Ok((PROPOSAL_SHM.len(), Phase::Deciding)),
            unexpected(Kind::Proposal, Kind::Accept),
            unexpected(Kind::Proposal, Kind::Confirm),
            Ok((DECLINE_V2.len(), Phase::Tcp)),
        ]
    );
    assert_eq!(
        row(|bytes| at_server(deciding_server(now), bytes)),
        [Ok((0, Phase::Deciding)); 4]
    );
    assert_eq!(
        row(|bytes| at_server(accepted(), bytes)),
        [
            unexpected(Kind::Confirm, Kind::Proposal),
            unexpected(Kind::Confirm, Kind::Accept),
            Ok((CONFIRM_SHM.len(), Phase::Done)),
            Ok((DECLINE_V2.len(), Phase::Tcp)),
        ]
    );
    assert_eq!(
        row(|bytes| at_server(done(), bytes)),
        [Ok((0, Phase::Done)); 4]
    );
    assert_eq!(
        row(|bytes| at_server(tcp(), bytes)),
        [Ok((0, Phase::Tcp)); 4]
    );
    assert_eq!(
        row(|bytes| at_server(failed(), bytes)),
        [Err(HandshakeError::Ended(Kind::Proposal)); 4]
    );
    let mut failed = failed();
    assert_eq!(
        (failed.phase(), failed.needed(), failed.poll_timeout()),
        (Phase::Failed, 0, None)
    );
    assert_eq!(failed.decline(Reason::Memory), Err(CallError::Phase));
    assert_eq!(
        failed.accept(buffer(&identity(0x11), 1), true, now),
        Err(CallError::Phase)
    );
}

/// An unexpected type is seen with the header; nothing behind it is waited for.
#[test]
fn the_header_is_enough() {
    let now = Instant::now();
    assert_eq!(
        waiting_client(now).handle_bytes(&PROPOSAL_SHM[..8], now),
        Err(HandshakeError::Unexpected {
            expected: Kind::Accept,
            got: Kind::Proposal
        })
    );
}
