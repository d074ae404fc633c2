//! The interfaces of WASI that plugins can import, each linked to a plugin's [`Wasi`].

use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{
    filesystem::{WasiFilesystem, WasiFilesystemCtxView},
    p2::bindings::{self, cli as wasi_cli, clocks, filesystem, random, sockets, sync},
    sockets::{WasiSockets, WasiSocketsCtxView},
};

use super::Wasi;
use crate::wasm::state::State;

type Link = fn(&mut Linker<State>) -> wasmtime::Result<()>;

/// Every interface that is linked, and how. The version linked is the newest
/// 0.2 that wasmtime-wasi has, and stands for all before it.
const LINKED: &[(&str, Link)] = &[
    ("wasi:cli/environment", |l| {
        wasi_cli::environment::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:cli/exit", |l| {
        wasi_cli::exit::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:cli/stdin", |l| {
        wasi_cli::stdin::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:cli/stdout", |l| {
        wasi_cli::stdout::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:cli/stderr", |l| {
        wasi_cli::stderr::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:cli/terminal-input", |l| {
        wasi_cli::terminal_input::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:cli/terminal-output", |l| {
        wasi_cli::terminal_output::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:cli/terminal-stdin", |l| {
        wasi_cli::terminal_stdin::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:cli/terminal-stdout", |l| {
        wasi_cli::terminal_stdout::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:cli/terminal-stderr", |l| {
        wasi_cli::terminal_stderr::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:io/error", |l| {
        wasmtime_wasi_io::bindings::wasi::io::error::add_to_linker::<_, HasSelf<ResourceTable>>(
            l,
            |state| &mut state.wasi.table,
        )
    }),
    ("wasi:io/poll", |l| {
        sync::io::poll::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:io/streams", |l| {
        sync::io::streams::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:clocks/wall-clock", |l| {
        clocks::wall_clock::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:clocks/monotonic-clock", |l| {
        clocks::monotonic_clock::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:random/random", |l| {
        random::random::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:random/insecure", |l| {
        random::insecure::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:random/insecure-seed", |l| {
        random::insecure_seed::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:filesystem/types", |l| {
        sync::filesystem::types::add_to_linker::<_, WasiFilesystem>(l, no_files)
    }),
    ("wasi:filesystem/preopens", |l| {
        filesystem::preopens::add_to_linker::<_, WasiFilesystem>(l, no_files)
    }),
    ("wasi:sockets/network", |l| {
        let options = bindings::sockets::network::LinkOptions::default();
        sockets::network::add_to_linker::<_, HasSelf<Wasi>>(l, &options, wasi)
    }),
    ("wasi:sockets/instance-network", |l| {
        sockets::instance_network::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:sockets/tcp", |l| {
        sync::sockets::tcp::add_to_linker::<_, WasiSockets>(l, no_sockets)
    }),
    ("wasi:sockets/tcp-create-socket", |l| {
        sockets::tcp_create_socket::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:sockets/udp", |l| {
        sync::sockets::udp::add_to_linker::<_, WasiSockets>(l, no_sockets)
    }),
    ("wasi:sockets/udp-create-socket", |l| {
        sync::sockets::udp_create_socket::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
    ("wasi:sockets/ip-name-lookup", |l| {
        sockets::ip_name_lookup::add_to_linker::<_, HasSelf<Wasi>>(l, wasi)
    }),
];

fn wasi(state: &mut State) -> &mut Wasi {
    &mut state.wasi
}

fn no_files(state: &mut State) -> WasiFilesystemCtxView<'_> {
    WasiFilesystemCtxView {
        ctx: &mut state.wasi.filesystem,
        table: &mut state.wasi.table,
    }
}

fn no_sockets(state: &mut State) -> WasiSocketsCtxView<'_> {
    WasiSocketsCtxView {
        ctx: &mut state.wasi.sockets,
        table: &mut state.wasi.table,
    }
}

/// Links every interface that this host offers.
pub fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    LINKED.iter().try_for_each(|(_, link)| link(linker))
}

/// Whether an import is linked, or needs no link because it has only types.
pub fn offers(name: &str, is_only_types: impl FnOnce() -> bool) -> bool {
    is_linked(name) || is_only_types()
}

fn is_linked(name: &str) -> bool {
    name.split_once('@').is_some_and(|(interface, version)| {
        LINKED.iter().any(|(linked, _)| *linked == interface)
            && semver::Version::parse(version).is_ok_and(|version| {
                (version.major, version.minor) == (0, 2) && version.pre.is_empty()
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_of_wasi_0_2_is_offered_and_no_other() {
        assert!(is_linked("wasi:cli/exit@0.2.0"));
        assert!(is_linked("wasi:cli/exit@0.2.6"));
        for other in [
            "wasi:cli/exit",
            "wasi:cli/exit@0.3.0",
            "wasi:cli/exit@0.2.0-rc-2023-11-10",
            "wasi:cli/exit@0.2",
            "wasi:http/types@0.2.0",
            "acme:cli/exit@0.2.0",
        ] {
            assert!(!is_linked(other), "{other}");
        }
    }
}
