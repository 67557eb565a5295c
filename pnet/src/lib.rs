//! The PNET table: which RDMA device and port serve a network interface.
