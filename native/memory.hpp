// SPDX-License-Identifier: Apache-2.0
// Aligned buffers for states and tables. Large ones come from memory that earlier runs gave back:
// faulting fresh pages in costs as much as the arithmetic of a small batch.
#pragma once
#include <cstddef>
#include <utility>

namespace qdp {

// At least `bytes`, aligned to a cache line and not cleared; `bytes` becomes what was taken.
// Throws std::bad_alloc.
void* take_memory(size_t& bytes);
// Keeps it for the next taker, up to 64 MiB in all, else frees it.
void give_memory(void* memory, size_t bytes);

template <class T>
class Aligned {
 public:
  Aligned() = default;
  explicit Aligned(size_t n) { resize(n); }
  Aligned(Aligned&& other) noexcept { *this = std::move(other); }
  Aligned& operator=(Aligned&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Aligned() { give_memory(data_, bytes_); }
  // Grows to hold n; what was in it is lost then.
  void resize(size_t n) {
    if (n * sizeof(T) <= bytes_) return;
    give_memory(data_, bytes_);
    data_ = nullptr;
    bytes_ = n * sizeof(T);
    data_ = static_cast<T*>(take_memory(bytes_));
  }
  T* get() const { return data_; }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace qdp
