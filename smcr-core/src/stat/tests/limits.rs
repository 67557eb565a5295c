//! Too little room: the program that is observed must live on as if nothing were.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;

use super::super::dir::Directory;
use super::super::identity::Identity;
use super::super::mapping::Mapping;
use super::super::page::MAX_SLOTS;
use super::super::{Counter, Publisher, Slot};
use super::lifetime::fork;
use super::{Base, connection};

/// In a forked child: gives `base` a file system of its own with room for `kib` KiB. False if
/// that is not permitted.
fn small_tmpfs(base: &Base, kib: u32) -> bool {
    let path = CString::new(base.0).unwrap();
    let options = CString::new(format!("size={kib}k")).unwrap();
    let (none, tmpfs, root) = (c"none".as_ptr(), c"tmpfs".as_ptr(), c"/".as_ptr());
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: system calls with strings that outlive them; a mount namespace of the child's own.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root, none, private, std::ptr::null()) == 0
            && libc::mount(none, path.as_ptr(), tmpfs, 0, options.as_ptr().cast()) == 0
    }
}

#[test]
fn no_room_for_a_page_is_an_error_and_not_a_signal() {
    let base = Base::new();
    let child = || {
        if !small_tmpfs(&base, 4) {
            return true;
        }
        let publisher = Publisher::below(base.0);
        let error = publisher.publish().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert!(base.pages().is_empty());
        !publisher.add(&connection()).is_listed()
    };
    assert!(fork(child, |_| {}));
}

#[test]
fn no_room_for_more_connections_leaves_them_unlisted() {
    let base = Base::new();
    let child = || {
        if !small_tmpfs(&base, 32) {
            return true;
        }
        let publisher = base.publisher();
        let slots: Vec<Slot> = (0..500).map(|_| publisher.add(&connection())).collect();
        let listed = slots.iter().filter(|slot| slot.is_listed()).count();
        assert!((1..500).contains(&listed), "{listed}");
        assert_eq!(publisher.counter(Counter::Unlisted), 500 - listed as u64);
        let process = base.read_one();
        assert_eq!(process.connections.len(), listed);
        // A child finds no room for its own page, and survives that, too.
        let grandchild = || {
            assert!(publisher.after_fork().is_err());
            slots.iter().for_each(|slot| slot.remove());
            publisher.add(&connection()).is_listed()
        };
        assert!(fork(grandchild, |_| {}));
        base.read_one().connections.len() == listed
    };
    assert!(fork(child, |_| {}));
}

#[test]
fn the_file_size_limit_is_kept() {
    let base = Base::new();
    let child = || {
        let limit = |bytes| {
            let limit = libc::rlimit {
                rlim_cur: bytes,
                rlim_max: libc::RLIM_INFINITY,
            };
            // SAFETY: a limit of this process, read during the call.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
        };
        limit(100_000);
        let publisher = Publisher::below(base.0);
        assert!(publisher.publish().is_err());
        limit(200_000);
        let publisher = base.publisher();
        let slots: Vec<Slot> = (0..2000).map(|_| publisher.add(&connection())).collect();
        let listed = slots.iter().filter(|slot| slot.is_listed()).count();
        listed == 1024 && base.read_one().connections.len() == 1024
    };
    assert!(fork(child, |_| {}));
}

#[test]
fn old_kernels_get_a_shorter_page() {
    let base = Base::new();
    let directory = Directory::create(base.0).unwrap();
    let own = Identity::own().unwrap();
    let mut mapping = Mapping::create(&directory, &own, MAX_SLOTS).unwrap();
    let [page] = base.pages().try_into().unwrap();
    let file = fs::File::options().write(true).open(page).unwrap();
    mapping.populate_prefix(file.as_fd()).unwrap();
    assert_eq!((mapping.capacity, mapping.populated), (4096, 4096));
}
