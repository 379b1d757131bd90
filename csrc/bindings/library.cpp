// The operations' schemas and the extension module `cnnkern._ops`. Kernels are registered beside their bindings.
#include <Python.h>
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(cnnkern, m) {
  m.def(
      "im2col(Tensor x, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation) -> Tensor");
  m.def(
      "conv2d(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, bool relu) -> Tensor");
  m.def("conv2d_pack(Tensor weight, int groups) -> Tensor");
  m.def(
      "conv2d_packed(Tensor x, Tensor packed, Tensor? bias, int[4] weight_size, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, bool relu) -> Tensor");
  m.def(
      "cp_conv2d(Tensor x, Tensor factor_c, Tensor factor_h, Tensor factor_w, Tensor factor_k, "
      "Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, int groups) -> Tensor");
  m.def(
      "cp_conv2d_pack(Tensor factor_c, Tensor factor_h, Tensor factor_w, Tensor factor_k, int groups) "
      "-> Tensor");
  m.def(
      "cp_conv2d_packed(Tensor x, Tensor packed, Tensor? bias, int[5] factor_size, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups) -> Tensor");
}

namespace {
PyModuleDef module = {PyModuleDef_HEAD_INIT, "cnnkern._ops", nullptr, -1, nullptr};
}

PyMODINIT_FUNC __attribute__((visibility("default"))) PyInit__ops(void) {
  return PyModule_Create(&module);
}
