"""What the configuration of a Keras model may name: layers that compute, and the plain values that they are made of.

Left out is what can run code of the file's or of the machine's, read other files, or reach the network: Lambda, wrappers of functions
and of other frameworks, saved models inside, look-ups with vocabularies, and everything that is registered by a package of its own.
"""

_LAYERS = """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveMaxPooling1D AdaptiveMaxPooling2D Add
    AlphaDropout Attention Average AveragePooling1D AveragePooling2D BatchNormalization CenterCrop Concatenate Conv1D Conv1DTranspose
    Conv2D Conv2DTranspose Cropping1D Cropping2D Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Flatten
    GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D GlobalMaxPooling2D
    GroupNormalization Identity InputLayer LayerNormalization LeakyReLU Maximum MaxPooling1D MaxPooling2D Minimum MultiHeadAttention
    Multiply Normalization PReLU Permute RMSNormalization ReLU RepeatVector Rescaling Reshape Resizing SeparableConv1D SeparableConv2D
    Softmax SpatialDropout1D SpatialDropout2D SpectralNormalization Subtract UnitNormalization UpSampling1D UpSampling2D ZeroPadding1D
    ZeroPadding2D
"""
_INITIALIZERS = """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer LecunNormal LecunUniform Ones Orthogonal
    OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
"""
#: arithmetic between layers, which Keras writes down as operations
_OPERATIONS = {
    "keras.src.ops.numpy": "Absolute Add Clip Concatenate Divide ExpandDims Exp Log Maximum Mean Minimum Moveaxis Multiply Negative "
    "Power Reshape Sqrt Square Squeeze Subtract Sum Transpose TrueDivide",
    "keras.src.ops.nn": "Elu Gelu HardSigmoid HardSilu HardSwish LeakyRelu LogSoftmax Relu Relu6 Sigmoid Silu Softmax Softplus Softsign",
}
#: the module and the name of everything that is allowed
ALLOWED = frozenset(
    [("keras.layers", name) for name in _LAYERS.split()]
    + [("keras.initializers", name) for name in _INITIALIZERS.split()]
    + [("keras.regularizers", name) for name in ("L1", "L2", "L1L2", "OrthogonalRegularizer")]
    + [("keras.constraints", name) for name in ("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm")]
    + [("keras", name) for name in ("DTypePolicy", "Functional", "Model", "Sequential")]
    + [("keras.src.models.functional", "Functional"), ("keras.src.models.sequential", "Sequential")]
    + [("keras.src.applications.convnext", "LayerScale"), ("keras.src.applications.inception_resnet_v2", "CustomScaleLayer")]
    + [(module, name) for module, names in _OPERATIONS.items() for name in names.split()]
)
#: a tensor between two layers
TENSOR = "__keras_tensor__"


def refusal(config: dict[str, object]) -> str:
    """Why an object that a configuration describes is not made, "" where it may be."""
    name, module, registered = config.get("class_name"), config.get("module"), config.get("registered_name")
    if name == TENSOR and module is None and registered is None:
        return ""
    if not isinstance(name, str) or not isinstance(module, str | None) or not isinstance(registered, str | None):
        return "describes an object whose class is no name"
    if registered not in (None, name):
        return f"asks for {registered!r}, which is registered by a package of its own; only layers of Keras are loaded"
    if (module, name) not in ALLOWED:
        return f"asks for {name!r} of {module or 'no module'}, which is not among the layers of Keras that are loaded"
    return ""
