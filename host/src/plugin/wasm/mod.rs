//! Plugins as WebAssembly components.
