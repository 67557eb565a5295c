//! Showing and changing the table.

use std::fmt::Write;
use std::path::Path;

use pnet::{Device, PnetId, Table};

use crate::Failure;

/// The table, or what is listed under one id, in the form of smc_pnet.
pub(crate) fn show(path: &Path, wanted: Option<&PnetId>) -> Result<String, Failure> {
    let table = Table::load(path)?;
    let mut text = String::new();
    for (id, device) in table.entries() {
        if wanted.is_some_and(|wanted| wanted != id) {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = match device {
            Device::Netdev(name) => writeln!(text, "{id} {name} n/a 255"),
            Device::Roce(roce) => writeln!(text, "{id} n/a {} {}", roce.device, roce.port),
        };
    }
    match wanted {
        Some(id) if text.is_empty() => Err(Failure::NoSuchId(id.to_string())),
        _ => Ok(text),
    }
}

/// Lists devices; all of them or none.
pub(crate) fn add(path: &Path, id: &PnetId, devices: &[Device]) -> Result<(), Failure> {
    Table::edit(path, |table| {
        for device in devices {
            let failed = |problem| Failure::Edit(name(device), problem);
            table.add(id.clone(), device.clone()).map_err(failed)?;
        }
        Ok(())
    })
}

/// Removes devices, all of them or none; without any, all of the id.
pub(crate) fn delete(path: &Path, id: &PnetId, devices: &[Device]) -> Result<(), Failure> {
    Table::edit(path, |table| {
        if devices.is_empty() && table.remove_id(id) == 0 {
            return Err(Failure::NoSuchId(id.to_string()));
        }
        for device in devices {
            let failed = |problem| Failure::Edit(name(device), problem);
            table.remove(id, device).map_err(failed)?;
        }
        Ok(())
    })
}

/// Removes everything but comments.
pub(crate) fn flush(path: &Path) -> Result<(), Failure> {
    Table::edit(path, |table| {
        table.clear();
        Ok(())
    })
}

fn name(device: &Device) -> String {
    match device {
        Device::Netdev(name) => name.clone(),
        Device::Roce(roce) => roce.to_string(),
    }
}
