//! An ordinary server that others wrote.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::origin::wait_until;

/// A server process, ended with the test.
pub(crate) struct Server {
    child: Child,
    host: String,
    pub(crate) port: u16,
}

impl Server {
    /// Takes over a server of any kind that listens on the loopback.
    pub(crate) fn local(child: Child, port: u16) -> Self {
        Self {
            child,
            host: "127.0.0.1".to_owned(),
            port,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.host, self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts nginx for the files in `dir`; `None` when it is not installed.
pub(crate) fn nginx(dir: &Path, port: Option<u16>, more: &str) -> Option<Server> {
    nginx_at("127.0.0.1", dir, port, more)
}

/// Starts nginx at an address of this thread's network; `None` when it is not installed.
pub(crate) fn nginx_at(host: &str, dir: &Path, port: Option<u16>, more: &str) -> Option<Server> {
    let free = || {
        let listener = TcpListener::bind((host, 0)).expect("a free port");
        listener.local_addr().expect("an address").port()
    };
    let port = port.unwrap_or_else(free);
    let root = dir.display();
    let config = format!(
        "daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log;
        events {{}}
        http {{
            access_log {root}/access.log;
            client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
            uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
            gzip on; gzip_types *; gzip_min_length 1; gzip_http_version 1.0;
            server {{ listen {host}:{port}; root {root}; {more} }}
        }}"
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).expect("written");
    let program = ["nginx", "/usr/sbin/nginx"].into_iter().find(|p| {
        Command::new(p)
            .arg("-v")
            .stderr(Stdio::null())
            .status()
            .is_ok()
    })?;
    let child = Command::new(program)
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx");
    let server = Server {
        child,
        host: host.to_owned(),
        port,
    };
    wait_until("nginx", || TcpStream::connect((host, port)).is_ok());
    Some(server)
}
