/* The only file that sees torch: compiled packages behind backend.h. SPDX-License-Identifier: Apache-2.0 */
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "backend.h"

namespace {

using torch::inductor::AOTIModelPackageLoader;

/* Calls that may run at the same moment; more wait for one another. */
constexpr std::size_t concurrent_calls = 4;

void report(const char *what, char *error, std::size_t size) {
    const std::string text(what);
    // torch appends its C++ stack after the first line.
    std::snprintf(error, size, "%s", text.substr(0, text.find('\n')).c_str());
}

/* The thread setting of torch for one call. */
class Threads {
public:
    explicit Threads(int wanted) : before_(wanted > 0 ? at::get_num_threads() : 0) {
        if (before_ > 0 && before_ != wanted) at::set_num_threads(wanted);
        changed_ = before_ > 0 && before_ != wanted;
    }
    ~Threads() {
        if (changed_) at::set_num_threads(before_);
    }
    Threads(const Threads &) = delete;
    Threads &operator=(const Threads &) = delete;

private:
    int before_;
    bool changed_ = false;
};

at::Tensor tensor_of(const sciops_tensor &view) {
    if (view.handle != nullptr) return *static_cast<at::Tensor *>(view.handle);
    const auto type = view.precision == 64 ? at::kDouble : at::kFloat;
    return at::from_blob(const_cast<void *>(view.data), at::IntArrayRef(view.shape, view.ndim), type);
}

/* Does the tensor lie in memory of the caller, as when a graph returns one of its inputs? */
bool borrowed(const at::Tensor &tensor, const sciops_tensor *inputs, int n_inputs) {
    const void *start = tensor.storage().data();
    return std::any_of(inputs, inputs + n_inputs,
                       [&](const sciops_tensor &input) { return input.handle == nullptr && input.data == start; });
}

void *open(const char *package, const char *entry, char *error, std::size_t size) {
    try {
        return new AOTIModelPackageLoader(package, entry, false, concurrent_calls);
    } catch (const std::exception &failure) {
        report(failure.what(), error, size);
    } catch (...) {
        report("an unknown exception", error, size);
    }
    return nullptr;
}

void close(void *network) { delete static_cast<AOTIModelPackageLoader *>(network); }

int run(void *network, int threads, const sciops_tensor *inputs, int n_inputs, sciops_tensor *outputs, int n_outputs,
        char *error, std::size_t size) {
    try {
        const c10::InferenceMode inference;
        const Threads setting(threads);
        std::vector<at::Tensor> given(n_inputs);
        std::transform(inputs, inputs + n_inputs, given.begin(), tensor_of);
        std::vector<at::Tensor> found = static_cast<AOTIModelPackageLoader *>(network)->boxed_run(std::move(given));
        if (found.size() != std::size_t(n_outputs)) {
            std::snprintf(error, size, "%zu outputs instead of %d", found.size(), n_outputs);
            return 1;
        }
        for (at::Tensor &tensor : found) {
            tensor = tensor.contiguous();
            if (borrowed(tensor, inputs, n_inputs)) tensor = tensor.clone();
            if (tensor.dim() > SCIOPS_MAX_AXES || !tensor.is_cpu()) {
                std::snprintf(error, size, "an output with %d axes on %s", int(tensor.dim()),
                              tensor.device().str().c_str());
                return 1;
            }
        }
        for (int i = 0; i < n_outputs; ++i) {
            sciops_tensor &out = outputs[i];
            out.data = found[i].data_ptr();
            out.precision = found[i].scalar_type() == at::kDouble ? 64 : found[i].scalar_type() == at::kFloat ? 32 : 0;
            out.ndim = int(found[i].dim());
            std::copy(found[i].sizes().begin(), found[i].sizes().end(), out.shape);
            out.handle = new at::Tensor(std::move(found[i]));
        }
        return 0;
    } catch (const std::exception &failure) {
        report(failure.what(), error, size);
    } catch (...) {
        report("an unknown exception", error, size);
    }
    return 1;
}

void release(void *handle) { delete static_cast<at::Tensor *>(handle); }

constexpr sciops_backend backend = {SCIOPS_BACKEND_ABI, TORCH_VERSION, open, close, run, release};

} // namespace

extern "C" __attribute__((visibility("default"))) const sciops_backend *sciops_backend_of_this_library() {
    return &backend;
}
