// `cnnkern._C`: facts about the build and the machine, and the choice of instruction sets. No tensors pass
// here.
#include "bindings/control.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include <string>
#include <vector>

namespace py = pybind11;

namespace {

const cnnkern::Control& control() {
  static const auto* table = [] {
    py::module_::import("cnnkern._ops");
    return static_cast<const cnnkern::Control*>(PyCapsule_Import(cnnkern::kControlCapsule, 0));
  }();
  if (!table) throw py::error_already_set();
  return *table;
}

py::dict build_info() {
  py::dict info;
  info["version"] = CNNKERN_VERSION;
  info["compiler"] =
#if defined(__clang__)
      "clang " __clang_version__;
#else
      "gcc " __VERSION__;
#endif
  info["torch"] = TORCH_VERSION;
  info["cxx_flags"] = CNNKERN_CXX_FLAGS;
  info["cuda"] = CNNKERN_CUDA[0] != 0;
  info["cuda_toolkit"] = CNNKERN_CUDA;
  info["cuda_reason"] = CNNKERN_CUDA_REASON;
  return info;
}

std::vector<std::string> isas(bool (*keep)(int32_t)) {
  std::vector<std::string> names;
  for (int32_t i = 0; i < control().isa_count; ++i) {
    if (keep(i)) names.emplace_back(control().isa_name(i));
  }
  return names;
}

void set_isa(const py::object& name) {
  if (name.is_none()) {
    control().reset_isa();
    return;
  }
  const auto wanted = name.cast<std::string>();
  for (int32_t i = 0; i < control().isa_count; ++i) {
    if (wanted == control().isa_name(i) && control().set_isa(i)) return;
  }
  std::string available;
  for (const std::string& known : isas(control().isa_available))
    available += (available.empty() ? "" : ", ") + known;
  throw py::value_error("name: expected one of " + available + " on this CPU, got '" + wanted + "'");
}

void set_cuda_core(const py::object& name) {
  if (name.is_none()) {
    control().reset_cuda_core();
    return;
  }
  const auto wanted = name.cast<std::string>();
  std::string known;
  for (int32_t i = 0; i < control().cuda_core_count; ++i) {
    if (wanted == control().cuda_core_name(i)) {
      control().set_cuda_core(i);
      return;
    }
    known += (i ? ", " : "") + std::string(control().cuda_core_name(i));
  }
  throw py::value_error("name: expected one of " + known + ", got '" + wanted + "'");
}

double measured(double (*measure)(int64_t, double), int64_t threads, double seconds) {
  if (threads < 1) throw py::value_error("threads: expected at least 1, got " + std::to_string(threads));
  py::gil_scoped_release release;
  return measure(threads, seconds);
}

py::dict cpu_features() {
  const cnnkern::CpuFeatures& cpu = control().cpu_features();
  py::dict found;
  found["avx2"] = cpu.avx2;
  found["fma"] = cpu.fma;
  found["avx512f"] = cpu.avx512f;
  found["avx512dq"] = cpu.avx512dq;
  found["avx512bw"] = cpu.avx512bw;
  found["avx512vl"] = cpu.avx512vl;
  found["avx512_vnni"] = cpu.avx512_vnni;
  found["avx_vnni"] = cpu.avx_vnni;
  found["amx_int8"] = cpu.amx_int8;
  return found;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build information, the CPU's features and the choice of instruction set.";
  m.def("build_info", build_info);
  m.def("cpu_features", cpu_features);
  m.def("compiled_isas", [] { return isas(control().isa_compiled); });
  m.def("available_isas", [] { return isas(control().isa_available); });
  m.def("current_isa", [] { return std::string(control().isa_name(control().current_isa())); });
  m.def("int8_kernel", [] { return std::string(control().int8_kernel()); });
  m.def("set_isa", set_isa, py::arg("name"));
  m.def("cuda_cores", [] {
    std::vector<std::string> names;
    for (int32_t i = 0; i < control().cuda_core_count; ++i) names.emplace_back(control().cuda_core_name(i));
    return names;
  });
  m.def("cuda_core", [] { return std::string(control().cuda_core_name(control().cuda_core())); });
  m.def("set_cuda_core", set_cuda_core, py::arg("name"));
  m.def(
      "fma_peak",
      [](int64_t threads, double seconds) { return measured(control().fma_peak, threads, seconds); },
      py::arg("threads"), py::arg("seconds") = 0.1);
  m.def(
      "memory_bandwidth",
      [](int64_t threads, double seconds) { return measured(control().memory_bandwidth, threads, seconds); },
      py::arg("threads"), py::arg("seconds") = 0.2);
}
