//! nginx and curl: one large file, whose checksum has to be right.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Ran, drive, megabits};
use crate::lab::{Cmd, Ends, Pair, kernel, quote};
use crate::scenario::apps::fill;
use crate::scenario::process::Program;

const PORT: u16 = 8080;

/// Fetches a file of so many MiB. Figure: the rate.
pub fn run(pair: &Pair, under: impl Into<Ends>, mebibytes: usize) -> Result<Ran> {
    let ends = under.into();
    let file = data(mebibytes)?;
    let sum = sha256(&file)?;
    let directory = file.parent().context("it lies in a directory")?;
    let configuration = format!(
        "daemon off; worker_processes 1; user root;\n\
         pid /tmp/nginx.pid; error_log /tmp/nginx.error;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n\
         access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;\n\
         client_body_temp_path /tmp/t1; proxy_temp_path /tmp/t2; fastcgi_temp_path /tmp/t3;\n\
         uwsgi_temp_path /tmp/t4; scgi_temp_path /tmp/t5;\n\
         server {{ listen {}:{PORT}; root \"{}\"; }}\n\
         }}\n",
        pair.server.address(),
        directory.display()
    );
    pair.server.write_file("/tmp/nginx.conf", configuration)?;
    pair.server.sh("rm -f /tmp/nginx.error")?;
    let server = ends
        .server
        .line("nginx -e /tmp/nginx.error -p /tmp -c /tmp/nginx.conf");
    let mut server = pair.server.spawn(server)?;
    pair.server.wait_for_listener(PORT)?;
    let url = format!("http://{}:{PORT}/{mebibytes}MiB", pair.server.address());
    let curl = ends.client.line(&format!(
        "curl --noproxy '*' --silent --show-error --fail --write-out '%{{stderr}}%{{time_total}}\\n' {}",
        quote(&url)
    ));
    // The shell's status is that of the last program; without the file the sum is wrong.
    let client = Cmd::new(format!("{curl} | sha256sum"));
    let deadline = Duration::from_secs(60 + mebibytes as u64 / 2);
    let (finished, sight) = drive(pair, ends, &mut server, client, deadline)?;
    if finished.stdout.split_whitespace().next() != Some(sum.as_str()) {
        bail!("curl received another file than nginx sent ({sum}): {finished}");
    }
    let seconds: f64 = finished
        .stderr
        .trim()
        .parse()
        .with_context(|| format!("curl shows no time: {finished}"))?;
    let log = pair.server.read_file("/tmp/nginx.error")?;
    let log = String::from_utf8_lossy(&log);
    let trouble = ["[error]", "[alert]", "[crit]", "[emerg]"];
    if let Some(line) = log.lines().find(|l| trouble.iter().any(|t| l.contains(t))) {
        bail!("nginx: {line}");
    }
    let rate = (mebibytes << 20) as f64 / seconds;
    Ok(Ran {
        figures: vec![(format!("nginx, {mebibytes} MiB"), megabits(rate))],
        bytes: (mebibytes << 20) as u64,
        sight,
    })
}

/// A file of this size, made once. Guests see it under the same path.
fn data(mebibytes: usize) -> Result<PathBuf> {
    let directory = kernel::directory().join("data");
    std::fs::create_dir_all(&directory)?;
    // Guests are not told of symbolic links on the way.
    let file = directory.canonicalize()?.join(format!("{mebibytes}MiB"));
    if !file.exists() {
        let new = tempfile::NamedTempFile::new_in(&directory)?;
        fill(new.path(), mebibytes << 20)?;
        new.persist(&file)?;
    }
    Ok(file)
}

fn sha256(path: &std::path::Path) -> Result<String> {
    let finished = Program::new("sha256sum")?
        .arg(path)
        .run(Duration::from_secs(60))?
        .success()?;
    let sum = finished.stdout.split_whitespace().next();
    Ok(sum.context("sha256sum prints nothing")?.to_owned())
}
