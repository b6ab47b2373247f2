// SPDX-License-Identifier: Apache-2.0
#include "memory.hpp"

#include <pthread.h>

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace qdp {
namespace {

constexpr size_t kSmall = size_t(64) << 10;  // below, malloc's own lists do
constexpr size_t kKept = size_t(64) << 20;

struct Block {
  void* memory;
  size_t bytes;
};

std::mutex mutex;
std::vector<Block>& kept_blocks() {
  static std::vector<Block>* blocks = [] {
    // A fork while another thread holds the lock must not leave it locked in the child.
    pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });
    return new std::vector<Block>();  // never destroyed: threads may give back at exit
  }();
  return *blocks;
}
size_t kept_bytes = 0;

}  // namespace

void* take_memory(size_t& bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (bytes >= kSmall) {
    std::vector<Block>& blocks = kept_blocks();
    std::lock_guard<std::mutex> lock(mutex);
    size_t best = blocks.size();
    for (size_t i = 0; i < blocks.size(); ++i)
      if (blocks[i].bytes >= bytes && blocks[i].bytes <= 2 * bytes &&
          (best == blocks.size() || blocks[i].bytes < blocks[best].bytes))
        best = i;
    if (best < blocks.size()) {
      const Block block = blocks[best];
      blocks[best] = blocks.back();
      blocks.pop_back();
      kept_bytes -= block.bytes;
      bytes = block.bytes;
      return block.memory;
    }
  }
  void* memory = std::aligned_alloc(64, bytes);
  if (!memory) throw std::bad_alloc();
  return memory;
}

void give_memory(void* memory, size_t bytes) {
  if (bytes >= kSmall) {
    std::vector<Block>& blocks = kept_blocks();
    std::lock_guard<std::mutex> lock(mutex);
    if (kept_bytes + bytes <= kKept) {
      blocks.push_back({memory, bytes});
      kept_bytes += bytes;
      return;
    }
  }
  std::free(memory);
}

}  // namespace qdp
