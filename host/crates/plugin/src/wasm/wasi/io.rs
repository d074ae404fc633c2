//! `wasi:io`: an input that has ended, two outputs that never block, and
//! pollables that never become ready, so that waiting for one ends the call.

use wasmtime::component::Resource;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult,
    bindings::sync::io::{poll, streams},
};

use super::{Wasi, console::Stream};
use crate::wasm::stop::Stop;

/// Bytes that an output takes at once; it has room again right after.
const WRITE_BYTES_MAX: u64 = 64 * 1024;

/// The one input there is.
pub fn input() -> Resource<DynInputStream> {
    Resource::new_own(0)
}

/// One of the two outputs: the handle's representation says which.
pub fn output(stream: Stream) -> Resource<DynOutputStream> {
    Resource::new_own(match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    })
}

/// A pollable that never becomes ready.
pub fn pollable() -> Resource<DynPollable> {
    Resource::new_own(0)
}

fn stream_of(output: &Resource<DynOutputStream>) -> Stream {
    if output.rep() == 1 {
        Stream::Stdout
    } else {
        Stream::Stderr
    }
}

fn waited<T>() -> wasmtime::Result<T> {
    Err(Stop::Waited.into())
}

impl poll::Host for Wasi {
    fn poll(&mut self, _pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        waited()
    }
}

impl poll::HostPollable for Wasi {
    fn ready(&mut self, _pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        Ok(false)
    }

    fn block(&mut self, _pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        waited()
    }

    fn drop(&mut self, _pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl streams::Host for Wasi {
    fn convert_stream_error(
        &mut self,
        error: StreamError,
    ) -> wasmtime::Result<streams::StreamError> {
        match error {
            StreamError::Closed => Ok(streams::StreamError::Closed),
            StreamError::LastOperationFailed(error) | StreamError::Trap(error) => Err(error),
        }
    }
}

impl streams::HostInputStream for Wasi {
    fn read(&mut self, _input: Resource<DynInputStream>, _len: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }

    fn blocking_read(
        &mut self,
        _input: Resource<DynInputStream>,
        _len: u64,
    ) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }

    fn skip(&mut self, _input: Resource<DynInputStream>, _len: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn blocking_skip(&mut self, _input: Resource<DynInputStream>, _len: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn subscribe(
        &mut self,
        _input: Resource<DynInputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        Ok(pollable())
    }

    fn drop(&mut self, _input: Resource<DynInputStream>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl streams::HostOutputStream for Wasi {
    fn check_write(&mut self, _output: Resource<DynOutputStream>) -> StreamResult<u64> {
        Ok(WRITE_BYTES_MAX)
    }

    fn write(&mut self, output: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.console.write(stream_of(&output), &bytes);
        Ok(())
    }

    fn blocking_write_and_flush(
        &mut self,
        output: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        self.write(output, bytes)
    }

    fn flush(&mut self, _output: Resource<DynOutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn blocking_flush(&mut self, _output: Resource<DynOutputStream>) -> StreamResult<()> {
        Ok(())
    }

    fn subscribe(
        &mut self,
        _output: Resource<DynOutputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        Ok(pollable())
    }

    /// Zeroes are nothing to read in a log.
    fn write_zeroes(&mut self, _output: Resource<DynOutputStream>, _len: u64) -> StreamResult<()> {
        Ok(())
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        _output: Resource<DynOutputStream>,
        _len: u64,
    ) -> StreamResult<()> {
        Ok(())
    }

    fn splice(
        &mut self,
        _output: Resource<DynOutputStream>,
        _input: Resource<DynInputStream>,
        _len: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn blocking_splice(
        &mut self,
        _output: Resource<DynOutputStream>,
        _input: Resource<DynInputStream>,
        _len: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }

    fn drop(&mut self, _output: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        Ok(())
    }
}
