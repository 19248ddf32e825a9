//! Walking over a module's parameters by their Hugging Face names.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

/// A parameter seen from outside: its name, shape and values.
pub struct Named {
    /// Path of the parameter, for example `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major, without gradient tracking.
    pub values: Tensor<1>,
}

/// All parameters of `module`, in the order of its fields.
pub fn list<M: Module>(module: &M) -> Vec<Named> {
    struct Visitor {
        path: Vec<String>,
        found: Vec<Named>,
    }
    impl ModuleVisitor for Visitor {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val().inner();
            let shape = tensor.dims().to_vec();
            let len: usize = shape.iter().product();
            self.found.push(Named {
                name: self.path.join("."),
                shape,
                values: tensor.reshape([len]),
            });
        }
    }
    let mut visitor = Visitor {
        path: vec![],
        found: vec![],
    };
    module.visit(&mut visitor);
    visitor.found
}

/// Replaces every parameter by what `update(name, shape, values)` returns (row-major, same length).
/// Gradient tracking stays as it was.
pub fn replace<M: Module>(
    module: M,
    update: impl FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>,
) -> M {
    struct Mapper<F> {
        path: Vec<String>,
        update: F,
    }
    impl<F: FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>> ModuleMapper for Mapper<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, tensor, mapper) = param.consume();
            let (autodiff, tracked) = (tensor.is_autodiff(), tensor.is_require_grad());
            let tensor = tensor.inner();
            let shape = tensor.dims();
            let len: usize = shape.iter().product();
            let name = self.path.join(".");
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
        path: vec![],
        update,
    })
}

/// The gradients of one backward pass by parameter name, flat; parameters without one are left out.
pub fn gradients<M: Module>(module: &M, graph: Gradients) -> BTreeMap<String, Tensor<1>> {
    struct Visitor {
        path: Vec<String>,
        graph: Gradients,
        found: BTreeMap<String, Tensor<1>>,
    }
    impl ModuleVisitor for Visitor {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad_remove(&mut self.graph) {
                let len: usize = gradient.dims().iter().product();
                self.found
                    .insert(self.path.join("."), gradient.reshape([len]));
            }
        }
    }
    let mut visitor = Visitor {
        path: vec![],
        graph,
        found: BTreeMap::new(),
    };
    module.visit(&mut visitor);
    visitor.found
}
