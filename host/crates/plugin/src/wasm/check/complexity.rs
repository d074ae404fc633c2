//! How much work a component's functions make for the compiler, counted without
//! compiling. The compiler follows every local through every block of a function,
//! so its time and memory grow with the product of the two, which a file of some
//! hundred kilobytes can make as large as it likes.

use wasmparser::{
    BinaryReaderError, BlockType, CompositeInnerType, FunctionBody, Operator, Parser, Payload,
    TypeSectionReader,
};

use super::super::rejection::{self, rejection};
use crate::Rejection;

/// Jumps times values of one function. The compiler needs about 110 bytes for each,
/// so this is 1.1 GB. The largest function of a plugin in Rust has 20,000, in Python
/// (its interpreter's loop) 190,000, in JavaScript 490,000.
const COMPLEXITY_MAX: u64 = 10_000_000;

/// Refuses a component with a function that nobody could compile in a bounded time.
/// A file that is damaged is for the compiler to describe.
pub fn check_complexity(bytes: &[u8]) -> Result<(), Rejection> {
    let Some(heaviest) = heaviest(bytes) else {
        return Ok(());
    };
    if heaviest.complexity() <= COMPLEXITY_MAX {
        return Ok(());
    }
    let Function {
        number,
        jumps,
        values,
    } = heaviest;
    Err(rejection(
        rejection::TOO_COMPLEX,
        format!(
            "function {number} of a core module has {jumps} blocks and branches and {values} values to follow through them; \
             the product of the two may be {COMPLEXITY_MAX}"
        ),
    ))
}

/// The function that makes the most work, if the file has any.
fn heaviest(bytes: &[u8]) -> Option<Function> {
    let mut heaviest: Option<Function> = None;
    let mut module = Module::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::Version { .. }) => module = Module::default(),
            Ok(Payload::TypeSection(types)) => module.read_types(types),
            Ok(Payload::ImportSection(imports)) => {
                let functions = imports.into_imports().flatten();
                module.imported += functions
                    .filter(|import| matches!(import.ty, wasmparser::TypeRef::Func(_)))
                    .count();
            }
            Ok(Payload::FunctionSection(functions)) => {
                module.functions = functions.into_iter().flatten().collect();
            }
            Ok(Payload::CodeSectionEntry(body)) => {
                let function = module.next_function(&body);
                if heaviest
                    .as_ref()
                    .is_none_or(|heaviest| heaviest.complexity() < function.complexity())
                {
                    heaviest = Some(function);
                }
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    heaviest
}

/// A function's work for the compiler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Function {
    /// Its index in its module, as tools print it.
    number: usize,
    /// Blocks, branches, and the targets of branch tables.
    jumps: u64,
    /// Parameters, locals, and what the widest block takes and leaves.
    values: u64,
}

impl Function {
    const fn complexity(&self) -> u64 {
        self.jumps.saturating_mul(self.values)
    }
}

/// The parts of a core module that its functions refer to.
#[derive(Debug, Default)]
struct Module {
    /// Parameters and results of its function types.
    types: Vec<(u64, u64)>,
    /// The types of its own functions.
    functions: Vec<u32>,
    imported: usize,
    /// Bodies read so far.
    bodies: usize,
}

impl Module {
    fn read_types(&mut self, types: TypeSectionReader<'_>) {
        for group in types.into_iter().flatten() {
            let widths = group.types().map(|ty| match &ty.composite_type.inner {
                CompositeInnerType::Func(function) => (
                    function.params().len() as u64,
                    function.results().len() as u64,
                ),
                _ => (0, 0),
            });
            self.types.extend(widths);
        }
    }

    /// Parameters and results of a type; those of an index that is out of range
    /// do not matter, since the component is not valid.
    fn widths(&self, index: u32) -> (u64, u64) {
        self.types.get(index as usize).copied().unwrap_or_default()
    }

    fn next_function(&mut self, body: &FunctionBody<'_>) -> Function {
        let own = self.functions.get(self.bodies).copied();
        let (params, _) = own.map_or((0, 0), |index| self.widths(index));
        let mut function = Function {
            number: self.imported + self.bodies,
            jumps: 0,
            values: params,
        };
        self.bodies += 1;
        // An error ends the count, but the figures up to it count.
        let _ = self.count(body, &mut function);
        function
    }

    fn count(
        &self,
        body: &FunctionBody<'_>,
        function: &mut Function,
    ) -> Result<(), BinaryReaderError> {
        for locals in body.get_locals_reader()? {
            let (count, _) = locals?;
            function.values = function.values.saturating_add(u64::from(count));
        }
        let mut widest = 0;
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let jumps = match operators.read()? {
                Operator::Block { blockty }
                | Operator::Loop { blockty }
                | Operator::If { blockty }
                | Operator::TryTable {
                    try_table: wasmparser::TryTable { ty: blockty, .. },
                } => {
                    widest = widest.max(self.width(blockty));
                    1
                }
                Operator::Else
                | Operator::Br { .. }
                | Operator::BrIf { .. }
                | Operator::BrOnNull { .. }
                | Operator::BrOnNonNull { .. }
                | Operator::BrOnCast { .. }
                | Operator::BrOnCastFail { .. }
                | Operator::Return => 1,
                Operator::BrTable { targets } => u64::from(targets.len()) + 1,
                _ => 0,
            };
            function.jumps = function.jumps.saturating_add(jumps);
        }
        function.values = function.values.saturating_add(widest);
        Ok(())
    }

    fn width(&self, block: BlockType) -> u64 {
        match block {
            BlockType::Empty => 0,
            BlockType::Type(_) => 1,
            BlockType::FuncType(index) => {
                let (params, results) = self.widths(index);
                params + results
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(text: &str) -> Function {
        heaviest(&wat::parse_str(text).unwrap()).expect("a function")
    }

    #[test]
    fn what_a_function_has_is_counted() {
        let module = r#"
            (core module
              (type $wide (func (param i32 i64 f32) (result i32 i64)))
              (import "a" "b" (func))
              (import "a" "c" (memory 1))
              (func $small (local i32))
              (func $large (param i32 i32) (local i32 i32 i64) (local f64)
                (block (br 0))
                (loop (br_if 0 (i32.const 0)))
                (if (i32.const 1) (then (return)) (else (nop)))
                (block (br_table 0 0 0 0 (i32.const 7)))
                (block (type $wide) unreachable)
                unreachable))"#;
        // Five blocks, an else, three branches (the return is one), and a table of four targets.
        let expected = Function {
            number: 2,
            jumps: 13,
            values: 2 + 4 + 5,
        };
        for around in ["(component {})", "(component (component {}))"] {
            assert_eq!(function(&around.replace("{}", module)), expected);
        }
    }

    #[test]
    fn the_heaviest_of_all_modules_counts() {
        let heavy = "(core module (func (local i32 i32) (block) (block) (block)))";
        let light = "(core module (func (local i32 i32)) (func (block)))";
        for modules in [[heavy, light], [light, heavy]] {
            let component = format!("(component {})", modules.concat());
            assert_eq!(function(&component).complexity(), 6);
        }
    }

    #[test]
    fn locals_are_counted_without_a_place_for_each() {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        module.extend([1, 4, 1, 0x60, 0, 0]); // a type without parameters
        module.extend([3, 2, 1, 0]); // a function of that type
        // A body of 4 billion locals in one run, and one block.
        module.extend([10, 13, 1, 11, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7f]);
        module.extend([0x02, 0x40, 0x0b, 0x0b]);
        let function = heaviest(&module).unwrap();
        assert_eq!(function.values, u64::from(u32::MAX));
        assert_eq!(function.jumps, 1);
    }

    #[test]
    fn what_is_over_the_limit_is_refused_with_its_figures() {
        let function = |blocks: usize| {
            let blocks = "(block)".repeat(blocks);
            let locals = " i32".repeat(2_000);
            wat::parse_str(format!(
                "(component (core module (func (local{locals}) {blocks})))"
            ))
            .unwrap()
        };
        assert_eq!(check_complexity(&function(5_000)), Ok(()));
        let rejection = check_complexity(&function(5_001)).unwrap_err();
        assert_eq!(rejection.code, rejection::TOO_COMPLEX);
        assert!(
            rejection
                .message
                .contains("5001 blocks and branches and 2000 values"),
            "{rejection}"
        );
    }

    #[test]
    fn a_damaged_file_is_left_to_the_compiler() {
        for bytes in [&b""[..], b"\0asm\x0d\0\x01\0", b"\0asm\x0d\0\x01\0\x01\xff"] {
            assert_eq!(check_complexity(bytes), Ok(()));
        }
    }
}
