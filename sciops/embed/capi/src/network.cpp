/* SPDX-License-Identifier: Apache-2.0 */
#include "network.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <mutex>

#include "failure.hpp"

namespace sciops {

namespace {

const char *const backend_name = "libsciops_torch.so";

/* The folder of the library that this code is in, with a slash at its end. */
std::string own_folder() {
    Dl_info info;
    static const char here = 0;
    if (dladdr(&here, &info) == 0 || info.dli_fname == nullptr) return "";
    const std::string path(info.dli_fname);
    const auto slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

const sciops_backend *open_backend() {
    const std::string path = own_folder() + backend_name;
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char *reason = dlerror();
        throw Failure(SCIOPS_BACKEND, "The library that runs networks cannot be opened (" +
                                          std::string(reason != nullptr ? reason : path) + "); keep " + backend_name +
                                          " beside libsciops.so, and build both again if torch has moved.");
    }
    const auto entry = reinterpret_cast<sciops_backend_entry>(dlsym(library, SCIOPS_BACKEND_SYMBOL));
    const sciops_backend *found = entry == nullptr ? nullptr : entry();
    if (found == nullptr || found->abi != SCIOPS_BACKEND_ABI)
        throw Failure(SCIOPS_BACKEND,
                      "The library " + path + " belongs to another version of libsciops.so; build both again.");
    return found;
}

} // namespace

std::int64_t points(const Shape &shape) {
    std::int64_t product = 1;
    for (const auto size : shape) product *= size;
    return product;
}

std::string text_of(const Shape &shape) {
    std::string out;
    for (const auto size : shape) out += (out.empty() ? "" : " x ") + std::to_string(size);
    return out;
}

const sciops_backend &backend() {
    static std::mutex mutex;
    static const sciops_backend *opened = nullptr; // a failure is tried again at the next call
    const std::lock_guard<std::mutex> lock(mutex);
    if (opened == nullptr) opened = open_backend();
    return *opened;
}

void Tensor::require(int precision, const Shape &shape, const char *what) const {
    if (raw_.precision == precision && raw_.ndim == int(shape.size()) &&
        std::equal(shape.begin(), shape.end(), raw_.shape))
        return;
    throw Failure(SCIOPS_BACKEND, "The network answered with " + std::string(what) + " of shape " +
                                      text_of(Shape(raw_.shape, raw_.shape + raw_.ndim)) + " and " +
                                      std::to_string(raw_.precision) + " bits, not " + text_of(shape) + " and " +
                                      std::to_string(precision) + " bits; export the artefact again.");
}

Network::Network(const std::string &package, const std::string &entry) : entry_(entry) {
    char error[1024] = "";
    handle_ = backend().open(package.c_str(), entry.c_str(), error, sizeof error);
    if (handle_ == nullptr)
        throw Failure(SCIOPS_BACKEND, "The package " + package + " cannot be opened (" + error +
                                          "); export it again, and see that TMPDIR is a folder one can write in.");
}

std::vector<Tensor> Network::run(int threads, const std::vector<sciops_tensor> &inputs, int n_outputs) const {
    std::vector<sciops_tensor> raw(n_outputs);
    char error[1024] = "";
    if (backend().run(handle_, threads, inputs.data(), int(inputs.size()), raw.data(), n_outputs, error, sizeof error))
        throw Failure(SCIOPS_BACKEND, "The network '" + entry_ + "' failed on this grid (" + error +
                                          "); see the shapes in the manifest, or export the artefact again.");
    std::vector<Tensor> outputs;
    outputs.reserve(raw.size());
    for (const auto &one : raw) outputs.emplace_back(one);
    return outputs;
}

} // namespace sciops
