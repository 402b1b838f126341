//! Names of operators that a person can read.

use std::collections::HashSet;

/// Gives each operator a name of its own.
#[derive(Default)]
pub(crate) struct Names(HashSet<String>);

impl Names {
    /// `name`, or if it is taken `name_2`, `name_3` and so on.
    pub fn unique(&mut self, name: &str) -> String {
        let mut candidate = name.to_string();
        let mut count = 1;
        while !self.0.insert(candidate.clone()) {
            count += 1;
            candidate = format!("{name}_{count}");
        }
        candidate
    }
}

/// What TensorFlow's name of a tensor says about the layer.
///
/// Converters join the names of all operators that they fused with `;`, the last one first, and each is a path whose end is
/// the operator: of `MobilenetV1/MobilenetV1/Conv2d_0/Relu6;…` this keeps `Conv2d_0`.
pub(crate) fn layer(tensor: &str) -> String {
    const LONGEST: usize = 60;
    let path = tensor.split(';').next().unwrap_or_default();
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.len() > 1 {
        parts.pop();
    }
    if let Some(&first) = parts.first() {
        let repeated = parts.iter().take_while(|&&part| part == first).count();
        parts.drain(..repeated.min(parts.len() - 1));
    }
    let name: String = parts.join("/").chars().take(LONGEST).collect();
    if name.is_empty() { "operator".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_keep_what_tells_them_apart() {
        let cases = [
            ("MobilenetV1/MobilenetV1/Conv2d_0/Relu6;MobilenetV1/x", "Conv2d_0"),
            ("MobilenetV1/Logits/AvgPool_1a/AvgPool", "Logits/AvgPool_1a"),
            ("model/activation_16/Relu;model/conv2d_8/BiasAdd", "activation_16"),
            ("MobilenetV2/expanded_conv_3/depthwise/Relu6", "expanded_conv_3/depthwise"),
            ("Identity", "Identity"),
            ("a/a", "a"),
            ("", "operator"),
            ("///", "operator"),
        ];
        for (tensor, wanted) in cases {
            assert_eq!(layer(tensor), wanted);
        }
        let mut names = Names::default();
        let found = ["a", "a", "a_2", "b", "a"].map(|name| names.unique(name));
        assert_eq!(found, ["a", "a_2", "a_2_2", "b", "a_3"]);
    }
}
