//! What can be tested without a device.

use super::*;

#[test]
fn a_device_that_is_not_there() {
    // Either libibverbs is missing, or it has no such device.
    match open("no_such_device", 1) {
        Err(OpenError::NoDevice { device, .. }) => assert_eq!(device, "no_such_device"),
        Err(OpenError::NoLibrary(reason)) => assert!(reason.contains("libibverbs"), "{reason}"),
        Err(OpenError::OldKernel) => {}
        other => panic!("{other:?}"),
    }
}
