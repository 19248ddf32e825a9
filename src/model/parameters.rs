//! Walking over a module's parameters by their Hugging Face names.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Gradients, Tensor};

/// Where a walk over modules stands.
#[derive(Default)]
pub(super) struct Path {
    parts: Vec<String>,
}

impl Path {
    /// Goes into the module `name` of a container; the variant of an enum adds nothing to names.
    pub(super) fn enter(&mut self, name: &str, container: &str) {
        let name = if container.starts_with("Enum:") {
            ""
        } else {
            name
        };
        self.parts.push(name.into());
    }

    /// Leaves the module entered last.
    pub(super) fn exit(&mut self) {
        self.parts.pop();
    }

    /// Name of the parameter that is reached.
    pub(super) fn name(&self) -> String {
        let named: Vec<&str> = self
            .parts
            .iter()
            .map(String::as_str)
            .filter(|p| !p.is_empty())
            .collect();
        named.join(".")
    }
}

/// A parameter seen from outside: its name, shape and values.
pub struct Named {
    /// Path of the parameter, for example `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major, without gradient tracking.
    pub values: Tensor<1>,
    /// Whether it is trained.
    pub trained: bool,
}

/// All parameters of `module`, in the order of its fields.
pub fn list<M: Module>(module: &M) -> Vec<Named> {
    struct Visitor {
        path: Path,
        found: Vec<Named>,
    }
    impl ModuleVisitor for Visitor {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let trained = param.val().is_require_grad();
            let tensor = param.val().inner();
            let shape = tensor.dims().to_vec();
            let len: usize = shape.iter().product();
            self.found.push(Named {
                name: self.path.name(),
                shape,
                values: tensor.reshape([len]),
                trained,
            });
        }
    }
    let mut visitor = Visitor {
        path: Path::default(),
        found: vec![],
    };
    module.visit(&mut visitor);
    visitor.found
}

/// Name and shape of every parameter, in the order of the module's fields.
pub fn shapes<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    list(module)
        .into_iter()
        .map(|p| (p.name, p.shape))
        .collect()
}

/// Replaces every parameter by what `update(name, shape, values)` returns (row-major, same length).
/// Gradient tracking stays as it was.
pub fn replace<M: Module>(
    module: M,
    update: impl FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>,
) -> M {
    struct Mapper<F> {
        path: Path,
        update: F,
    }
    impl<F: FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>> ModuleMapper for Mapper<F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, tensor, mapper) = param.consume();
            let (autodiff, tracked) = (tensor.is_autodiff(), tensor.is_require_grad());
            let tensor = tensor.inner();
            let shape = tensor.dims();
            let len: usize = shape.iter().product();
            let name = self.path.name();
            let values = (self.update)(&name, &shape, tensor.reshape([len]));
            let mut tensor = values.reshape(shape);
            if autodiff {
                tensor = Tensor::from_inner(tensor);
            }
            if tracked {
                tensor = tensor.require_grad();
            }
            Param::from_mapped_value(id, tensor, mapper)
        }
    }
    module.map(&mut Mapper {
        path: Path::default(),
        update,
    })
}

/// The gradients of one backward pass by parameter name, flat; parameters without one are left out.
pub fn gradients<M: Module>(module: &M, graph: Gradients) -> BTreeMap<String, Tensor<1>> {
    struct Visitor {
        path: Path,
        graph: Gradients,
        found: BTreeMap<String, Tensor<1>>,
    }
    impl ModuleVisitor for Visitor {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad_remove(&mut self.graph) {
                let len: usize = gradient.dims().iter().product();
                self.found.insert(self.path.name(), gradient.reshape([len]));
            }
        }
    }
    let mut visitor = Visitor {
        path: Path::default(),
        graph,
        found: BTreeMap::new(),
    };
    module.visit(&mut visitor);
    visitor.found
}

/// `module` with parameters rounded to brain floats of 16 bits. With autodiff they are computed from the
/// given ones, which the gradients reach.
pub fn bf16<M: Module>(module: M) -> M {
    struct Mapper;
    impl ModuleMapper for Mapper {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, tensor, _) = param.consume();
            Param::initialized(id, tensor.cast(FloatDType::BF16))
        }
    }
    module.map(&mut Mapper)
}
