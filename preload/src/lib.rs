//! `libsmcr.so`: the hooks.
