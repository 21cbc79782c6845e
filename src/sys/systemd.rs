//! The service manager's side of the daemon: readiness, watchdog, and sockets handed over at start
//! (`sd_notify(3)`, `sd_listen_fds(3)`), by the documented protocols and without libsystemd.
