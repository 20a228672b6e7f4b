//! Kernel to text.

use super::canonical::canonical;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::kernel::{Access, Block, ForKind, Func, Index, Inst, Mem, Space, Stmt, Var};
use crate::scalar::Scalar;
use crate::text::{array_type, float_text};

/// The canonical text of `func`, ending in a newline.
pub fn print(func: &Func) -> String {
    let func = canonical(func);
    let mut printer = Printer::new(&func);
    printer.func();
    printer.out
}

/// The text of one statement, with the variables' numbers and names as they are in `func`. For messages.
pub fn print_stmt(func: &Func, stmt: &Stmt) -> String {
    let mut printer = Printer::new(func);
    printer.stmt(stmt);
    printer.out
}

struct Printer<'f> {
    func: &'f Func,
    /// The text of every variable. Values are numbered among themselves: loop variables do not take numbers.
    vars: Vec<String>,
    out: String,
    indent: usize,
}

impl<'f> Printer<'f> {
    fn new(func: &'f Func) -> Self {
        let mut next = 0;
        let mut vars = Vec::with_capacity(func.vars.len());
        for info in &func.vars {
            vars.push(info.name.as_ref().map_or_else(|| format!("%{next}"), |name| name.to_string()));
            next += usize::from(info.name.is_none());
        }
        Printer { func, vars, out: String::new(), indent: 0 }
    }

    fn line(&mut self, text: &str) {
        for _ in 0..self.indent {
            self.out.push_str("  ");
        }
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn func(&mut self) {
        let func = self.func;
        self.line(&format!("kernel @{}(", func.name));
        self.indent += 1;
        for param in &func.params {
            let access = access_name(param.access);
            self.line(&format!("{}: {access} {},", param.name, array_type(param.dtype, &param.shape)));
        }
        self.indent -= 1;
        let sizes: Vec<&str> = func.sizes.iter().map(|size| size.as_str()).collect();
        let sizes = if sizes.is_empty() { String::new() } else { format!(" sizes {}", sizes.join(", ")) };
        self.line(&format!("){sizes} {{"));
        self.indent += 1;
        for axis in &func.grid {
            let (base, count) = (self.var(axis.base), self.var(axis.count));
            self.line(&format!(
                "grid {} over {} tile {} as {base}, {count}",
                axis.name, axis.extent, axis.tile
            ));
        }
        for local in &func.locals {
            let word = match local.space {
                Space::Reg => "reg",
                Space::Tile => "local",
            };
            let lanes =
                local.lane_axis.map_or(String::new(), |(axis, width)| format!(" lanes {axis} width {width}"));
            self.line(&format!("{word} {}: {}{lanes}", local.name, array_type(local.dtype, &local.shape)));
        }
        self.block(&func.body);
        self.indent -= 1;
        self.line("}");
    }

    fn block(&mut self, block: &Block) {
        for stmt in block {
            self.stmt(stmt);
        }
    }

    fn nested(&mut self, head: &str, block: &Block) {
        self.line(&format!("{head} {{"));
        self.indent += 1;
        self.block(block);
        self.indent -= 1;
        self.line("}");
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let(var, inst) => self.line(&format!("{} = {}", self.var(*var), self.inst(*var, inst))),
            Stmt::Store { mem, index, value } => {
                self.line(&format!("store {} = {}", self.element(*mem, index), self.var(*value)));
            }
            Stmt::Accum { op, mem, index, args } => {
                self.line(&format!("accum {} {}, {}", op.name(), self.element(*mem, index), self.vars(args)));
            }
            Stmt::For(inner) => {
                let word = match inner.kind {
                    ForKind::Seq => "for",
                    ForKind::Unroll => "unroll",
                    ForKind::Lanes { .. } => "lanes",
                };
                let (start, end) = (self.index(&inner.start), self.index(&inner.end));
                let mut head = format!("{word} {} in {start}..{end}", self.var(inner.var));
                if let ForKind::Lanes { width } = inner.kind {
                    head.push_str(&format!(" width {width}"));
                }
                self.nested(&head, &inner.body);
            }
            Stmt::Stage(name, body) => self.nested(&format!("stage {name}"), body),
            Stmt::Decl(id) => self.line(&format!("decl {}", self.mem_name(Mem::Local(*id)))),
        }
    }

    fn inst(&self, result: Var, inst: &Inst) -> String {
        let dtype = self.func.vars.get(result.0 as usize).map_or(DType::I64, |info| info.dtype);
        match inst {
            Inst::Const(value) => format!("const {dtype} {}", constant_text(dtype, *value)),
            Inst::Index(index) => format!("index {}", self.index(index)),
            Inst::Scalar(op, args) => format!("{op} {}", self.vars(args)),
            Inst::Fma(a, b, c) => format!("fma {}", self.vars(&[*a, *b, *c])),
            Inst::Convert(arg) => format!("convert {dtype} {}", self.var(*arg)),
            Inst::Bitcast(arg) => format!("bitcast {dtype} {}", self.var(*arg)),
            Inst::Round(to, arg) => format!("round {to} {}", self.var(*arg)),
            Inst::Load(mem, index) => format!("load {}", self.element(*mem, index)),
        }
    }

    fn var(&self, var: Var) -> String {
        self.vars.get(var.0 as usize).cloned().unwrap_or_else(|| format!("%undefined_{}", var.0))
    }

    fn vars(&self, vars: &[Var]) -> String {
        let texts: Vec<String> = vars.iter().map(|var| self.var(*var)).collect();
        texts.join(", ")
    }

    fn mem_name(&self, mem: Mem) -> String {
        let name = match mem {
            Mem::Param(id) => self.func.params.get(id.0 as usize).map(|param| &param.name),
            Mem::Local(id) => self.func.locals.get(id.0 as usize).map(|local| &local.name),
        };
        name.map_or_else(|| format!("unknown_{mem:?}"), |name| name.to_string())
    }

    fn element(&self, mem: Mem, index: &[Index]) -> String {
        let texts: Vec<String> = index.iter().map(|index| self.index(index)).collect();
        format!("{}[{}]", self.mem_name(mem), texts.join(","))
    }

    fn index(&self, index: &Index) -> String {
        let mut out = String::new();
        for (var, coeff) in &index.terms {
            let (negative, factor) = factor_text(coeff);
            match (negative, out.is_empty()) {
                (true, _) => out.push('-'),
                (false, true) => {}
                (false, false) => out.push('+'),
            }
            out.push_str(&self.var(*var));
            out.push_str(&factor);
        }
        let offset = index.offset.to_string();
        if out.is_empty() {
            return offset;
        }
        if offset != "0" {
            if !offset.starts_with('-') {
                out.push('+');
            }
            out.push_str(&offset);
        }
        out
    }
}

/// The sign of a coefficient and what follows the variable: `*2*n`, `*(n+1)`, nothing for 1.
fn factor_text(coeff: &Dim) -> (bool, String) {
    match coeff.to_string().as_str() {
        "1" => (false, String::new()),
        "-1" => (true, String::new()),
        text if coeff.terms().count() != 1 => (false, format!("*({text})")),
        text => match text.strip_prefix('-') {
            Some(rest) => (true, format!("*{rest}")),
            None => (false, format!("*{text}")),
        },
    }
}

/// The text of a constant of `dtype`, without the dtype.
pub fn constant_text(dtype: DType, value: Scalar) -> String {
    match value {
        Scalar::Float(value) => float_text(dtype, value),
        Scalar::Int(value) => value.to_string(),
        Scalar::Bool(value) => value.to_string(),
    }
}

/// The word for `access` in text.
pub(super) fn access_name(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "write",
        Access::ReadWrite => "read_write",
    }
}
