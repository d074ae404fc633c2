//! Plugins made from plugins: the same under another digest, or broken.

use courtside_types::Digest;

/// A plugin with identical logic, in another file.
#[must_use]
pub fn variant(plugin: &[u8], tag: &str) -> Vec<u8> {
    let mut content = leb(tag.len());
    content.extend_from_slice(tag.as_bytes());
    let variant = with_section(plugin, CUSTOM, &content);
    assert_ne!(Digest::of(plugin), Digest::of(&variant));
    variant
}

/// A copy of a plugin, in which a text is replaced by another of the same
/// length.
#[must_use]
pub fn reworded(plugin: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = plugin.to_vec();
    let places: Vec<usize> = plugin
        .windows(from.len())
        .enumerate()
        .filter(|(_, window)| *window == from.as_bytes())
        .map(|(place, _)| place)
        .collect();
    assert!(!places.is_empty(), "the plugin does not say {from:?}");
    for place in places {
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

/// A plugin that traps when it is instantiated, after everything else went
/// well.
#[must_use]
pub fn trapping_at_start(plugin: &[u8]) -> Vec<u8> {
    with_start(plugin, "(module (func $f unreachable) (start $f))")
}

/// A plugin whose instantiation does not come to an end.
#[must_use]
pub fn looping_at_start(plugin: &[u8]) -> Vec<u8> {
    with_start(plugin, "(module (func $f (loop br 0)) (start $f))")
}

/// A component from its text.
#[must_use]
pub fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("a component's text")
}

// Sections of a component's binary form.
const CUSTOM: u8 = 0;
const CORE_MODULE: u8 = 1;
const CORE_INSTANCE: u8 = 2;
const HEADER_BYTES: usize = 8;

/// A component whose last act of instantiation is one more core instance.
fn with_start(plugin: &[u8], module: &str) -> Vec<u8> {
    let number = sections(plugin)
        .filter(|section| *section == CORE_MODULE)
        .count();
    let module = wat::parse_str(module).expect("a module's text");
    let with_module = with_section(plugin, CORE_MODULE, &module);
    // A vector of one: instantiate module `number` with no arguments.
    let mut instance = vec![1, 0];
    instance.extend(leb(number));
    instance.push(0);
    with_section(&with_module, CORE_INSTANCE, &instance)
}

fn with_section(component: &[u8], id: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = component.to_vec();
    bytes.push(id);
    bytes.extend(leb(content.len()));
    bytes.extend_from_slice(content);
    bytes
}

/// The ids of a component's sections.
fn sections(component: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut at = HEADER_BYTES;
    std::iter::from_fn(move || {
        let id = *component.get(at)?;
        at += 1;
        let mut length = 0;
        for shift in (0..).step_by(7) {
            let byte = component[at];
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        at += length;
        Some(id)
    })
}

fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
