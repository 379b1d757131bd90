// The operations' schemas and the extension module `cnnkern._ops`. Kernels are registered beside their
// bindings.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include "bindings/control.h"
#include "cpu/features.h"
#include "cpu/peak.h"
#include "cpu/registry.h"
#include "cuda/core.h"

STABLE_TORCH_LIBRARY(cnnkern, m) {
  m.def("im2col(Tensor x, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation) -> Tensor");
  m.def(
      "column_sparse_conv2d(Tensor x, Tensor weight, Tensor columns, Tensor? bias, int[2] kernel_size, "
      "int[2] stride, int[2] padding, int[2] dilation, int groups) -> Tensor");
  m.def(
      "column_sparse_conv2d_backward(Tensor grad, Tensor x, Tensor weight, Tensor columns, int[2] kernel_size, "
      "int[2] stride, int[2] padding, int[2] dilation, int groups, bool[3] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("column_sparse_conv2d_pack(Tensor weight, Tensor columns, int[2] kernel_size, int groups) -> Tensor");
  m.def(
      "column_sparse_conv2d_packed(Tensor x, Tensor packed, Tensor? bias, int[] geometry, Tensor columns) -> Tensor");
  m.def(
      "conv2d(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, bool relu) -> Tensor");
  m.def(
      "conv2d_backward(Tensor grad, Tensor x, Tensor weight, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, bool[3] output_mask) -> (Tensor, Tensor, Tensor)");
  m.def("conv2d_pack(Tensor weight, int groups) -> Tensor");
  m.def("conv2d_packed(Tensor x, Tensor packed, Tensor? bias, int[] geometry, bool relu) -> Tensor");
  m.def(
      "cp_conv2d(Tensor x, Tensor factor_c, Tensor factor_h, Tensor factor_w, Tensor factor_k, "
      "Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, int groups) -> Tensor");
  m.def(
      "cp_conv2d_backward(Tensor grad, Tensor x, Tensor factor_c, Tensor factor_h, Tensor factor_w, "
      "Tensor factor_k, int[2] stride, int[2] padding, int[2] dilation, int groups, bool[6] output_mask) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "cp_conv2d_pack(Tensor factor_c, Tensor factor_h, Tensor factor_w, Tensor factor_k, int groups) "
      "-> Tensor");
  m.def("cp_conv2d_packed(Tensor x, Tensor packed, Tensor? bias, int[] geometry) -> Tensor");
  m.def("int8_quantize(Tensor x, float scale, int zero_point, ScalarType dtype) -> Tensor");
  m.def(
      "int8_add(Tensor a, Tensor b, float a_scale, int a_zero_point, float b_scale, int b_zero_point, "
      "float out_scale, int out_zero_point, bool relu) -> Tensor");
  m.def("int8_max_pool2d(Tensor x, int[] geometry, bool ceil_mode) -> Tensor");
  m.def("int8_gemm(Tensor a, Tensor b, int a_zero_point) -> Tensor");
  m.def("int8_gemm_pack(Tensor b) -> Tensor");
  m.def("int8_gemm_packed(Tensor a, Tensor packed, int n, int a_zero_point) -> Tensor");
  m.def(
      "int8_linear(Tensor x, Tensor weight, Tensor? bias, Tensor weight_scale, float x_scale, int x_zero_point, "
      "float? out_scale, int out_zero_point, bool relu) -> Tensor");
  m.def(
      "int8_linear_packed(Tensor x, Tensor packed, Tensor? bias, Tensor weight_scale, float x_scale, "
      "int x_zero_point, float? out_scale, int out_zero_point, bool relu) -> Tensor");
  m.def(
      "int8_conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor weight_scale, float x_scale, int x_zero_point, "
      "float? out_scale, int out_zero_point, int[2] stride, int[2] padding, int[2] dilation, int groups, "
      "bool relu) -> Tensor");
  m.def("int8_conv2d_pack(Tensor weight, int groups) -> Tensor");
  m.def(
      "int8_conv2d_packed(Tensor x, Tensor packed, Tensor? bias, int[] geometry, Tensor weight_scale, "
      "float x_scale, int x_zero_point, float? out_scale, int out_zero_point, bool relu) -> Tensor");
  m.def(
      "int8_column_sparse_conv2d(Tensor x, Tensor weight, Tensor columns, Tensor? bias, Tensor weight_scale, "
      "float x_scale, int x_zero_point, float? out_scale, int out_zero_point, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, bool relu) -> Tensor");
  m.def("int8_column_sparse_conv2d_pack(Tensor weight, int groups) -> Tensor");
  m.def(
      "int8_column_sparse_conv2d_packed(Tensor x, Tensor packed, Tensor? bias, int[] geometry, Tensor columns, "
      "Tensor weight_scale, float x_scale, int x_zero_point, float? out_scale, int out_zero_point, bool relu) "
      "-> Tensor");
  m.def(
      "int8_cp_conv2d(Tensor x, Tensor factor_c, Tensor factor_h, Tensor factor_w, Tensor factor_k, Tensor? bias, "
      "Tensor factor_c_scale, Tensor factor_k_scale, float x_scale, int x_zero_point, float? out_scale, "
      "int out_zero_point, int[2] stride, int[2] padding, int[2] dilation, int groups, bool relu) -> Tensor");
  m.def(
      "int8_cp_conv2d_pack(Tensor factor_c, Tensor factor_h, Tensor factor_w, Tensor factor_k, int groups) "
      "-> Tensor");
  m.def(
      "int8_cp_conv2d_packed(Tensor x, Tensor packed, Tensor? bias, int[] geometry, Tensor factor_c_scale, "
      "Tensor factor_k_scale, float x_scale, int x_zero_point, float? out_scale, int out_zero_point, bool relu) "
      "-> Tensor");
  m.def(
      "perforated_conv2d(Tensor x, Tensor weight, Tensor mask, Tensor? bias, int[2] stride, int[2] padding, "
      "int[2] dilation, int groups, bool nearest) -> Tensor");
  m.def(
      "perforated_conv2d_backward(Tensor grad, Tensor x, Tensor weight, Tensor mask, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, bool nearest, bool[3] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("perforated_conv2d_sources(Tensor mask, bool nearest) -> Tensor");
  m.def("perforated_conv2d_arrange(Tensor mask, bool nearest) -> Tensor");
  m.def(
      "perforated_conv2d_packed(Tensor x, Tensor packed, Tensor? bias, int[] geometry, Tensor arranged) "
      "-> Tensor");
}

namespace {

using cnnkern::Isa;

const cnnkern::Control kControl = {
    cnnkern::kIsaCount,
    [](int32_t isa) { return cnnkern::isa_name(static_cast<Isa>(isa)); },
    [](int32_t isa) { return cnnkern::isa_compiled(static_cast<Isa>(isa)); },
    [](int32_t isa) { return cnnkern::isa_available(static_cast<Isa>(isa)); },
    [] { return static_cast<int32_t>(cnnkern::current_isa()); },
    [](int32_t isa) { return cnnkern::set_isa(static_cast<Isa>(isa)); },
    cnnkern::reset_isa,
    [] { return cnnkern::int8_primitives().name; },
    cnnkern::measure_fma_peak,
    cnnkern::measure_memory_bandwidth,
    cnnkern::cpu_features,
    cnnkern::cuda::kCoreCount,
    [](int32_t core) { return cnnkern::cuda::kCoreNames[core]; },
    [] { return static_cast<int32_t>(cnnkern::cuda::chosen_core().load()); },
    [](int32_t core) { cnnkern::cuda::chosen_core() = static_cast<cnnkern::cuda::Core>(core); },
    [] { cnnkern::cuda::chosen_core() = cnnkern::cuda::preferred_core(); },
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "cnnkern._ops", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__ops(void) {
  PyObject* const self = PyModule_Create(&module);
  if (!self) return nullptr;
  PyObject* const capsule =
      PyCapsule_New(const_cast<cnnkern::Control*>(&kControl), cnnkern::kControlCapsule, nullptr);
  if (!capsule || PyModule_AddObjectRef(self, "_control", capsule) < 0) {
    Py_XDECREF(capsule);
    Py_DECREF(self);
    return nullptr;
  }
  Py_DECREF(capsule);
  return self;
}
