/* A compiled graph and the tensors that go in and out of it. SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "backend.h"

namespace sciops {

using Shape = std::vector<std::int64_t>;

std::int64_t points(const Shape &shape);
std::string text_of(const Shape &shape); /* "128 x 128" */

/* Precision of the arithmetic of T as the interface counts it. */
template <class T> constexpr int precision_of = sizeof(T) == 8 ? 64 : 32;

/* The library that runs networks, opened once per process and never closed: torch cannot be unloaded. */
const sciops_backend &backend();

/* A tensor of the backend. */
class Tensor {
public:
    Tensor() = default;
    explicit Tensor(const sciops_tensor &raw) : raw_(raw) {}
    ~Tensor() {
        if (raw_.handle != nullptr) backend().release(raw_.handle);
    }
    Tensor(Tensor &&other) noexcept : raw_(std::exchange(other.raw_, sciops_tensor{})) {}
    Tensor &operator=(Tensor &&other) noexcept {
        std::swap(raw_, other.raw_);
        return *this;
    }

    const sciops_tensor &raw() const { return raw_; }
    /* Its values; throws Failure unless it has this type and shape. */
    template <class T> const T *values(const Shape &shape, const char *what) const {
        require(precision_of<T>, shape, what);
        return static_cast<const T *>(raw_.data);
    }

private:
    void require(int precision, const Shape &shape, const char *what) const;
    sciops_tensor raw_{};
};

/* Memory of ours as an input. */
template <class T> sciops_tensor view(const T *data, const Shape &shape) {
    sciops_tensor raw{};
    raw.data = data;
    raw.precision = precision_of<T>;
    raw.ndim = int(shape.size());
    std::copy(shape.begin(), shape.end(), raw.shape);
    return raw;
}

/* One entry of a package. `run` may be called by many threads. */
class Network {
public:
    Network(const std::string &package, const std::string &entry);
    ~Network() { backend().close(handle_); }
    Network(const Network &) = delete;
    Network &operator=(const Network &) = delete;

    std::vector<Tensor> run(int threads, const std::vector<sciops_tensor> &inputs, int n_outputs) const;

private:
    std::string entry_;
    void *handle_;
};

} // namespace sciops
