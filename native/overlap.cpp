// SPDX-License-Identifier: Apache-2.0
// Squared overlaps |<a|b>|^2 of all pairs of states: a matrix product whose tiles are squared before
// they are written, so that no complex Gram matrix is ever in memory. Of one set of states with
// itself half the tiles are computed.
//
// Letters: a row is `depth` numbers; complex rows are taken as they lie, real and imaginary parts in
// turn. Then Re <a|b> = sum a b and Im <a|b> = sum a b', with b' = (b_im, -b_re) in turn.
#include <algorithm>
#include <cstring>
#include <vector>

#include "engine.hpp"
#include "isa.hpp"
#include "memory.hpp"
#include "pool.hpp"

namespace qdp {
namespace {

// Rows of a block: its tiles, summed in double, stay within some megabytes. A multiple of the rows
// and columns of every instruction set's tile.
constexpr int64_t kBlockRows = 768;
// Numbers of a row that are packed at a time: a panel of columns stays in the second-level cache.
constexpr int64_t kDepth = 512;
// Sums of the largest tile: 8 rows, 3 lines of 16 columns.
constexpr int64_t kMostSums = 8 * 3 * 16;

template <class T>
class Overlaps {
 public:
  Overlaps(const T* left, int64_t left_rows, const T* right, int64_t right_rows, int64_t depth,
           bool is_complex, T* out)
      : left_(left), right_(right), out_(out), left_rows_(left_rows), right_rows_(right_rows),
        depth_(depth), complex_(is_complex), kernels_(isa().kernels<T>().tables[0]),
        height_(kernels_.overlap_rows), width_(kernels_.overlap_lines * kernels_.lanes) {
    packed_left_.resize(size_t(padded(left_rows_, height_) * kDepth));
    packed_right_.resize(size_t(padded(right_rows_, width_) * kDepth));
    if (complex_) packed_turned_.resize(size_t(padded(right_rows_, width_) * kDepth));
    const size_t tiles = size_t(padded(left_rows_, height_) * padded(right_rows_, width_));
    real_.resize(tiles);
    if (complex_) imaginary_.resize(tiles);
  }

  void run() {
    const bool same = left_ == right_;
    for (int64_t i = 0; i < left_rows_; i += kBlockRows)
      for (int64_t j = 0; j < (same ? i + 1 : right_rows_); j += kBlockRows)
        block(i, std::min(left_rows_, i + kBlockRows), j, std::min(right_rows_, j + kBlockRows),
              same);
  }

 private:
  // Rows of a block, filled up to whole panels.
  static int64_t padded(int64_t rows, int64_t panel) {
    return (std::min(rows, kBlockRows) + panel - 1) / panel * panel;
  }

  // Numbers [k, k + n) of rows [first, end) as panels of `panel` rows, number by number; zeros fill
  // the last one. `turned`: (im, -re) in place of (re, im).
  static void pack(const T* rows, int64_t depth, int64_t first, int64_t end, int64_t k, int64_t n,
                   int64_t panel, bool turned, T* target) {
    // A few numbers of every row at a time, so that what is written stays in the first-level cache.
    constexpr int64_t kStep = 16;
    for (int64_t begin = 0; begin < n; begin += kStep) {
      const int64_t stop = std::min(n, begin + kStep);
      for (int64_t row = 0; row < panel; ++row) {
        T* out = target + row;
        if (first + row >= end) {
          for (int64_t x = begin; x < stop; ++x) out[x * panel] = 0;
          continue;
        }
        const T* source = rows + (first + row) * depth + k;
        if (turned) {
          for (int64_t x = begin; x < stop; x += 2) {
            out[x * panel] = source[x + 1];
            out[(x + 1) * panel] = -source[x];
          }
        } else {
          for (int64_t x = begin; x < stop; ++x) out[x * panel] = source[x];
        }
      }
    }
  }

  void block(int64_t top, int64_t bottom, int64_t left, int64_t right, bool same) {
    const int64_t n_left = (bottom - top + height_ - 1) / height_;
    const int64_t n_right = (right - left + width_ - 1) / width_;
    const int64_t tile = int64_t(height_) * width_;
    const int threads = thread_count();
    // On the diagonal, tiles whose rows all lie above their columns are mirror images.
    const auto first_panel = [&](int64_t q) {
      return same && top == left ? q * width_ / height_ : 0;
    };
    for (int64_t k = 0; k < depth_; k += kDepth) {
      const int64_t n = std::min(kDepth, depth_ - k);
      run_parts(int(n_left + n_right), threads, [&](int part, int) {
        if (part < n_left) {
          pack(left_, depth_, top + part * height_, bottom, k, n, height_, false,
               packed_left_.get() + part * height_ * kDepth);
          return;
        }
        const int64_t q = part - n_left, place = q * width_ * kDepth;
        pack(right_, depth_, left + q * width_, right, k, n, width_, false,
             packed_right_.get() + place);
        if (complex_)
          pack(right_, depth_, left + q * width_, right, k, n, width_, true,
               packed_turned_.get() + place);
      });
      run_parts(int(n_right), threads, [&](int part, int) {
        const int64_t q = part, place = q * width_ * kDepth;
        for (int64_t p = first_panel(q); p < n_left; ++p) {
          const T* rows = packed_left_.get() + p * height_ * kDepth;
          const int64_t at = (p * n_right + q) * tile;
          kernels_.overlap(rows, packed_right_.get() + place, n, real_.get() + at, k == 0);
          if (complex_)
            kernels_.overlap(rows, packed_turned_.get() + place, n, imaginary_.get() + at, k == 0);
        }
      });
    }
    run_parts(int(n_left), threads, [&](int part, int) {
      for (int64_t q = 0; q < n_right; ++q)
        if (part >= first_panel(q))
          write(part, q, (part * n_right + q) * tile, top, bottom, left, right, same);
    });
  }

  void write(int64_t p, int64_t q, int64_t at, int64_t top, int64_t bottom, int64_t left,
             int64_t right, bool same) {
    const int64_t n_rows = std::min<int64_t>(height_, bottom - top - p * height_);
    const int64_t n_columns = std::min<int64_t>(width_, right - left - q * width_);
    T squares[kMostSums];
    for (int64_t i = 0; i < n_rows * width_; ++i) {
      const double re = real_[at + i], im = complex_ ? imaginary_[at + i] : 0;
      squares[i] = T(re * re + im * im);
    }
    const int64_t row = top + p * height_, column = left + q * width_;
    // On the diagonal the tiles above are not computed: what lies there is mirrored.
    const auto below = [&](int64_t r) {
      return same ? std::min(n_columns, row + r + 1 - column) : n_columns;
    };
    for (int64_t r = 0; r < n_rows; ++r) {
      T* out = out_ + (row + r) * right_rows_ + column;
      for (int64_t c = 0; c < below(r); ++c) out[c] = squares[r * width_ + c];
    }
    if (!same) return;
    for (int64_t c = 0; c < n_columns; ++c) {
      T* out = out_ + (column + c) * right_rows_ + row;
      for (int64_t r = 0; r < n_rows; ++r)
        if (c < below(r)) out[r] = squares[r * width_ + c];
    }
  }

  const T *left_, *right_;
  T* out_;
  int64_t left_rows_, right_rows_, depth_;
  bool complex_;
  const KernelTable<T>& kernels_;
  int height_, width_;
  Aligned<T> packed_left_, packed_right_, packed_turned_;
  Aligned<double> real_, imaginary_;  // [panels][panels] tiles
};

}  // namespace

template <class T>
void overlaps(const T* left, int64_t left_rows, const T* right, int64_t right_rows, int64_t depth,
              bool is_complex, T* out) {
  if (left_rows == 0 || right_rows == 0) return;
  Overlaps<T>(left, left_rows, right, right_rows, depth, is_complex, out).run();
}
template void overlaps(const float*, int64_t, const float*, int64_t, int64_t, bool, float*);
template void overlaps(const double*, int64_t, const double*, int64_t, int64_t, bool, double*);

}  // namespace qdp
