// SPDX-License-Identifier: Apache-2.0
// The loops over states, written once and compiled once per instruction set (QDP_ISA names it).
// No standard-library template may be used here: the linker could keep the copy of a shared inline
// function that was compiled for a processor this machine does not have.
//
// Letters: V one line, K rotations of one pass, tau the tangent of half an angle with its sign,
// a the position of a line within a coset, lo the first local bit of a pass.
#include "plan.hpp"

#define UNROLL _Pragma("GCC unroll 64")
#define INLINE static inline __attribute__((always_inline))

namespace qdp {
namespace QDP_ISA {

// SPLIT: butterflies take one of their two products apart from its sum, for processors whose adders
// stand beside the multipliers (AMD's): it saves copying a register, and costs the others an operation.
template <class T, int BYTES, bool SPLIT = false>
struct Kernels {
  typedef T V __attribute__((vector_size(BYTES)));
  static constexpr int W = BYTES / int(sizeof(T));

  INLINE V splat(T value) { return value - V{}; }  // x - 0 is x, also for x = -0
  INLINE const V* lines(const T* p) { return reinterpret_cast<const V*>(p); }
  INLINE V* lines(T* p) { return reinterpret_cast<V*>(p); }

  // Sums over many lines are kept in double: a line of partial sums is added every kFlush terms.
  static constexpr int64_t kFlush = 256;
  INLINE void flush(V& sum, double* out) {
    for (int i = 0; i < W; ++i) out[i] += double(sum[i]);
    sum = V{};
  }

  // Lines by byte offset: what an XOR of scaled addresses gives.
  INLINE const V& at(const V* p, uint64_t bytes) {
    return *reinterpret_cast<const V*>(reinterpret_cast<const char*>(p) + bytes);
  }
  INLINE V& at(V* p, uint64_t bytes) {
    return *reinterpret_cast<V*>(reinterpret_cast<char*>(p) + bytes);
  }

  // ---- sweeps -----------------------------------------------------------------------------------

  // The K butterflies of one pass over the 2^K lines in r. TAN: c is tau, s unused.
  template <int K, bool TAN, bool APART = SPLIT>
  INLINE void butterflies(V* r, const V* c, const V* s) {
    UNROLL for (int j = 0; j < K; ++j) {
      UNROLL for (int a = 0; a < (1 << K); ++a) {
        if (a & (1 << j)) continue;
        const V p = r[a], q = r[a | (1 << j)];
        if constexpr (TAN) {
          V product = c[j] * p;
#if QDP_BYTES == 64
          if constexpr (APART) asm("" : "+v"(product));  // not to be fused into the sum
#endif
          r[a] = p - c[j] * q;
          r[a | (1 << j)] = q + product;
        } else {
          r[a] = c[j] * p - s[j] * q;
          r[a | (1 << j)] = c[j] * q + s[j] * p;
        }
      }
    }
  }

  // Coefficients of the rotations from bit lo on, with the signs they have in one set of one block.
  // `turns` holds a triple a rotation: +tau, -tau (or +sin, -sin) and, unless TAN, cos.
  template <int K, bool TAN>
  INLINE void choose(const V* turns, int lo, uint32_t flips, V* c, V* s) {
    UNROLL for (int j = 0; j < K; ++j) {
      const V turn = turns[3 * (lo + j) + (flips >> (lo + j) & 1)];
      if constexpr (TAN) {
        c[j] = turn;
      } else {
        s[j] = turn;
        c[j] = turns[3 * (lo + j) + 2];
      }
    }
  }

  // Byte offsets of the 2^K lines of each pass, which are the same in every block.
  struct Steps {
    uint64_t of[kMaxSweepBits][1 << kMaxPassBits];
    explicit Steps(const Sweep& sweep) {
      int lo = 0;
      for (int i = 0; i < sweep.n_passes; lo += sweep.pass_bits[i++])
        for (int a = 0; a < (1 << sweep.pass_bits[i]); ++a)
          of[i][a] = uint64_t(sweep.offset[uint32_t(a) << lo]) * BYTES;
    }
  };

  // One pass over one block: FROM/TO say whether lines are read from and written to the state
  // (scattered, addresses by XOR) or the block's own buffer (dense, local index).
  // LOAD: 0 as is, 1 a real source times a table splat over the lanes, 2 times a table of lines.
  template <int K, int LO, bool FROM_STATE, bool TO_STATE, bool SIGNED, bool TAN, int LOAD>
  INLINE void pass(const Sweep& sweep, const uint64_t* step, int low_bit, uint32_t base,
                   const V* source, V* target, const V* turns, uint32_t flips, const T* table) {
    const int lo = LO < 0 ? low_bit : LO;
    V c[K], s[K];
    choose<K, TAN>(turns, lo, flips, c, s);
    const uint32_t n_low = 1u << lo, n_high = 1u << (sweep.bits - lo - K);
    for (uint32_t high = 0; high < n_high; ++high) {
      for (uint32_t low = 0; low < n_low; ++low) {
        const uint32_t local = high << (lo + K) | low;
        const uint64_t line = uint64_t(base ^ sweep.offset[local]) * BYTES;
        V r[1 << K];
        UNROLL for (int a = 0; a < (1 << K); ++a) {
          const uint32_t index = local | uint32_t(a) << lo;
          const uint64_t place = line ^ step[a];
          if constexpr (!FROM_STATE) {
            r[a] = source[index];
          } else if constexpr (LOAD == 0) {
            r[a] = at(source, place);
          } else {
            r[a] = at(source, place & ~(uint64_t(sweep.plane_bit) * BYTES));
            r[a] *= LOAD == 1 ? splat(table[place / BYTES]) : at(lines(table), place);
          }
          if constexpr (SIGNED && FROM_STATE) r[a] *= splat(T(sweep.negative[index]));
        }
        butterflies<K, TAN>(r, c, s);
        UNROLL for (int a = 0; a < (1 << K); ++a) {
          const uint32_t index = local | uint32_t(a) << lo;
          if constexpr (SIGNED && TO_STATE) r[a] *= splat(T(sweep.negative[index]));
          if constexpr (TO_STATE) {
            at(target, line ^ step[a]) = r[a];
          } else {
            target[index] = r[a];
          }
        }
      }
    }
  }

  template <bool FROM_STATE, bool TO_STATE, bool SIGNED, bool TAN, int LOAD = 0>
  INLINE void pass_of(int k, const Sweep& sweep, const uint64_t* step, int lo, uint32_t base,
                      const V* source, V* target, const V* turns, uint32_t flips,
                      const T* table = nullptr) {
#define QDP_PASS(K, LO)                                                      \
  return pass<K, LO, FROM_STATE, TO_STATE, SIGNED, TAN, LOAD>(sweep, step, lo, base, source, \
                                                              target, turns, flips, table)
    switch (k) {  // a sweep of several passes has none of one bit, and begins with the largest
      case 2:
        QDP_PASS(2, -1);
      case 3:
        if (lo == 0) QDP_PASS(3, 0);
        if (lo == 3) QDP_PASS(3, 3);
        QDP_PASS(3, -1);
      default:
        if (lo == 0) QDP_PASS(4, 0);
        if (lo == 4) QDP_PASS(4, 4);
        __builtin_unreachable();
    }
#undef QDP_PASS
  }

  template <bool TAN>
  INLINE void both_turns(const SweepCall<T>& call, V* turns) {
    const V* given = lines(call.coefficient);
    const V way = splat(call.inverse ? T(-1) : T(1));
    for (int j = 0; j < call.sweep->bits; ++j) {
      const V turn = (TAN ? given[j] : given[2 * j + 1]) * way;
      turns[3 * j] = turn;
      turns[3 * j + 1] = -turn;
      if (!TAN) turns[3 * j + 2] = given[2 * j];
    }
  }

  // A rotation with a real Pauli word turns the other way in set 0, one with an imaginary word the
  // same way in both sets.
  INLINE uint32_t flips_of(const Sweep& sweep, int64_t block, int set) {
    return sweep.sign[block] ^ (set == 0 ? sweep.imaginary : 0);
  }

  // The end of the blocks from `block` on that turn the same way: few enough to stay in the cache
  // from the first set to the second, and for sums in single precision.
  INLINE int64_t run_end(const Sweep& sweep, int64_t block, int64_t end) {
    end = block + kFlush / 16 < end ? block + kFlush / 16 : end;
    int64_t next = block + 1;
    while (next < end && sweep.sign[next] == sweep.sign[block]) ++next;
    return next;
  }

  // Sweeps of one pass: a block is as many lines as fit into the registers, and coefficients are
  // chosen once for all blocks that turn the same way.
  template <int K, bool SIGNED, bool TAN, int LOAD>
  INLINE void single_pass(const SweepCall<T>& call, const V* turns) {
    const Sweep& sweep = *call.sweep;
    const V* source = lines(call.source);
    V* target = lines(call.target);
    const T* table = call.load_table;
    uint64_t step[1 << K];
    UNROLL for (int a = 0; a < (1 << K); ++a) step[a] = uint64_t(sweep.offset[a]) * BYTES;
    const uint64_t plane = uint64_t(sweep.plane_bit) * BYTES;
    for (int64_t begin = call.begin, end; begin < call.end; begin = end) {
      end = run_end(sweep, begin, call.end);
      for (int set = call.first_set; set < call.n_sets; ++set) {
        V c[K], s[K];
        choose<K, TAN>(turns, 0, flips_of(sweep, begin, set), c, s);
        for (int64_t block = begin; block < end; ++block) {
          const uint64_t line = uint64_t(sweep.base[block]) * BYTES | (set ? plane : 0);
          V r[1 << K];
          UNROLL for (int a = 0; a < (1 << K); ++a) {
            const uint64_t place = line ^ step[a];
            r[a] = at(source, LOAD ? place & ~plane : place);
            if constexpr (LOAD == 1) r[a] *= splat(table[place / BYTES]);
            if constexpr (LOAD == 2) r[a] *= at(lines(table), place);
            if constexpr (SIGNED) r[a] *= splat(T(sweep.negative[a]));
          }
          butterflies<K, TAN>(r, c, s);
          UNROLL for (int a = 0; a < (1 << K); ++a) {
            if constexpr (SIGNED) r[a] *= splat(T(sweep.negative[a]));
            at(target, line ^ step[a]) = r[a];
          }
        }
      }
    }
  }

  template <bool SIGNED, bool TAN, int LOAD>
  INLINE void single_pass_of(const SweepCall<T>& call, const V* turns) {
    switch (call.sweep->bits) {
      case 1:
        return single_pass<1, SIGNED, TAN, LOAD>(call, turns);
      case 2:
        return single_pass<2, SIGNED, TAN, LOAD>(call, turns);
      case 3:
        return single_pass<3, SIGNED, TAN, LOAD>(call, turns);
      default:
        return single_pass<4, SIGNED, TAN, LOAD>(call, turns);
    }
  }

  template <bool SIGNED, bool TAN, int LOAD>
  static void sweep_blocks(const SweepCall<T>& call) {
    const Sweep& sweep = *call.sweep;
    const V* source = lines(call.source);
    V* target = lines(call.target);
    V buffer[1 << kMaxSweepBits];
    V turns[3 * kMaxSweepBits];
    both_turns<TAN>(call, turns);
    if (sweep.n_passes == 1) return single_pass_of<SIGNED, TAN, LOAD>(call, turns);
    const Steps steps(sweep);
    for (int64_t block = call.begin; block < call.end; ++block) {
      for (int set = call.first_set; set < call.n_sets; ++set) {
        const uint32_t flips = flips_of(sweep, block, set);
        const uint32_t base = sweep.base[block] | (set ? sweep.plane_bit : 0);
        int lo = 0;
        pass_of<true, false, SIGNED, TAN, LOAD>(sweep.pass_bits[0], sweep, steps.of[0], lo, base,
                                                source, buffer, turns, flips, call.load_table);
        lo += sweep.pass_bits[0];
        for (int i = 1; i < sweep.n_passes - 1; ++i) {
          pass_of<false, false, SIGNED, TAN>(sweep.pass_bits[i], sweep, steps.of[i], lo, base,
                                             buffer, buffer, turns, flips);
          lo += sweep.pass_bits[i];
        }
        const int last = sweep.n_passes - 1;
        pass_of<false, true, SIGNED, TAN>(sweep.pass_bits[last], sweep, steps.of[last], lo, base,
                                          buffer, target, turns, flips);
      }
    }
  }

  template <bool SIGNED, bool TAN>
  static void sweep_loading(const SweepCall<T>& call) {
    if constexpr (TAN) {
      if (call.load_table) {
        call.load_per_line ? sweep_blocks<SIGNED, TAN, 2>(call)
                           : sweep_blocks<SIGNED, TAN, 1>(call);
        return;
      }
    }
    sweep_blocks<SIGNED, TAN, 0>(call);
  }

  static void sweep(const SweepCall<T>& call) {
    const bool is_signed = call.sweep->negative != nullptr;
    if (call.rows_form) {
      is_signed ? sweep_loading<true, false>(call) : sweep_loading<false, false>(call);
    } else {
      is_signed ? sweep_loading<true, true>(call) : sweep_loading<false, true>(call);
    }
  }

  // ---- gradients of a sweep ---------------------------------------------------------------------

  // Re <lambda|(-iP)|psi> for the K rotations of one pass of one block, with lambda in the block's
  // buffer or in the state; then, if UNAPPLY, the inverse butterflies on lambda.
  template <int K, int LO, bool FROM_STATE, bool TO_STATE, bool SIGNED, bool TAN, bool UNAPPLY>
  INLINE void gradient_pass(const Sweep& sweep, const uint64_t* step, int low_bit, uint32_t base,
                            const V* source, V* target, const V* psi, const V* turns,
                            uint32_t flips, V* sums) {
    const int lo = LO < 0 ? low_bit : LO;
    V c[K], s[K];
    if constexpr (UNAPPLY) choose<K, TAN>(turns, lo, flips, c, s);
    V even[K], odd[K];
    UNROLL for (int j = 0; j < K; ++j) even[j] = odd[j] = V{};
    const uint32_t n_low = 1u << lo, n_high = 1u << (sweep.bits - lo - K);
    for (uint32_t high = 0; high < n_high; ++high) {
      for (uint32_t low = 0; low < n_low; ++low) {
        const uint32_t local = high << (lo + K) | low;
        const uint64_t line = uint64_t(base ^ sweep.offset[local]) * BYTES;
        V r[1 << K];
        UNROLL for (int a = 0; a < (1 << K); ++a) {
          const uint32_t index = local | uint32_t(a) << lo;
          r[a] = FROM_STATE ? at(source, line ^ step[a]) : source[index];
          if constexpr (SIGNED && FROM_STATE) r[a] *= splat(T(sweep.negative[index]));
        }
        inner_products<K>(r, [&](int a) __attribute__((always_inline)) {
          V x = at(psi, line ^ step[a]);
          if constexpr (SIGNED) x *= splat(T(sweep.negative[local | uint32_t(a) << lo]));
          return x;
        }, even, odd);
        if constexpr (UNAPPLY) {
          butterflies<K, TAN>(r, c, s);
        }
        if constexpr (UNAPPLY || !TO_STATE) {
          UNROLL for (int a = 0; a < (1 << K); ++a) {
            const uint32_t index = local | uint32_t(a) << lo;
            if constexpr (TO_STATE) {
              if constexpr (SIGNED) r[a] *= splat(T(sweep.negative[index]));
              at(target, line ^ step[a]) = r[a];
            } else {
              target[index] = r[a];
            }
          }
        }
      }
    }
    UNROLL for (int j = 0; j < K; ++j) {
      sums[2 * (lo + j) + (flips >> (lo + j) & 1)] += even[j] - odd[j];
    }
  }

  template <bool FROM_STATE, bool TO_STATE, bool SIGNED, bool TAN, bool UNAPPLY>
  INLINE void gradient_pass_of(int k, const Sweep& sweep, const uint64_t* step, int lo,
                               uint32_t base, const V* source, V* target, const V* psi,
                               const V* turns, uint32_t flips, V* sums) {
#define QDP_PASS(K, LO)                                                                    \
  return gradient_pass<K, LO, FROM_STATE, TO_STATE, SIGNED, TAN, UNAPPLY>(                  \
      sweep, step, lo, base, source, target, psi, turns, flips, sums)
    switch (k) {
      case 2:
        QDP_PASS(2, -1);
      case 3:
        if (lo == 0) QDP_PASS(3, 0);
        if (lo == 3) QDP_PASS(3, 3);
        QDP_PASS(3, -1);
      default:
        if (lo == 0) QDP_PASS(4, 0);
        if (lo == 4) QDP_PASS(4, 4);
        __builtin_unreachable();
    }
#undef QDP_PASS
  }

  INLINE void flush_pairs(V* sums, int n, double* out) {
    for (int j = 0; j < n; ++j) {
      V sum = sums[2 * j] - sums[2 * j + 1];
      flush(sum, out + j * W);
      sums[2 * j] = sums[2 * j + 1] = V{};
    }
  }

  // Re <lambda|(-iP)|psi> of K rotations for the 2^K lines r of lambda, added to even and odd.
  template <int K, class F>
  INLINE void inner_products(const V* r, F psi_at, V* even, V* odd) {
    UNROLL for (int a = 0; a < (1 << K); ++a) {
      const V x = psi_at(a);
      UNROLL for (int j = 0; j < K; ++j) {
        if (a & (1 << j)) {
          odd[j] += r[a ^ (1 << j)] * x;
        } else {
          even[j] += r[a ^ (1 << j)] * x;
        }
      }
    }
  }

  // As single_pass, over blocks that turn the same way.
  template <int K, bool SIGNED, bool TAN, bool UNAPPLY>
  INLINE void single_gradient(const SweepCall<T>& call, const V* turns, V* sums) {
    const Sweep& sweep = *call.sweep;
    const V* psi = lines(call.psi);
    V* lambda = lines(call.target);
    uint64_t step[1 << K];
    UNROLL for (int a = 0; a < (1 << K); ++a) step[a] = uint64_t(sweep.offset[a]) * BYTES;
    const uint64_t plane = uint64_t(sweep.plane_bit) * BYTES;
    for (int64_t begin = call.begin, end; begin < call.end; begin = end) {
      end = run_end(sweep, begin, call.end);
      for (int set = call.first_set; set < call.n_sets; ++set) {
        const uint32_t flips = flips_of(sweep, begin, set);
        V c[K], s[K], even[K], odd[K];
        if constexpr (UNAPPLY) choose<K, TAN>(turns, 0, flips, c, s);
        UNROLL for (int j = 0; j < K; ++j) even[j] = odd[j] = V{};
        for (int64_t block = begin; block < end; ++block) {
          const uint64_t line = uint64_t(sweep.base[block]) * BYTES | (set ? plane : 0);
          V r[1 << K];
          UNROLL for (int a = 0; a < (1 << K); ++a) {
            r[a] = at(lambda, line ^ step[a]);
            if constexpr (SIGNED) r[a] *= splat(T(sweep.negative[a]));
          }
          inner_products<K>(r, [&](int a) __attribute__((always_inline)) {
            V x = at(psi, line ^ step[a]);
            if constexpr (SIGNED) x *= splat(T(sweep.negative[a]));
            return x;
          }, even, odd);
          if constexpr (UNAPPLY) {
            butterflies<K, TAN, false>(r, c, s);  // there are no registers left for products
            UNROLL for (int a = 0; a < (1 << K); ++a) {
              if constexpr (SIGNED) r[a] *= splat(T(sweep.negative[a]));
              at(lambda, line ^ step[a]) = r[a];
            }
          }
        }
        UNROLL for (int j = 0; j < K; ++j) sums[2 * j + (flips >> j & 1)] += even[j] - odd[j];
      }
      flush_pairs(sums, K, call.gradient);
    }
  }

  template <bool SIGNED, bool TAN, bool UNAPPLY>
  INLINE void single_gradient_of(const SweepCall<T>& call, const V* turns, V* sums) {
    switch (call.sweep->bits) {
      case 1:
        return single_gradient<1, SIGNED, TAN, UNAPPLY>(call, turns, sums);
      case 2:
        return single_gradient<2, SIGNED, TAN, UNAPPLY>(call, turns, sums);
      case 3:
        return single_gradient<3, SIGNED, TAN, UNAPPLY>(call, turns, sums);
      default:
        return single_gradient<4, SIGNED, TAN, UNAPPLY>(call, turns, sums);
    }
  }

  // All gradients of a sweep are taken with lambda and psi both behind it; only then is it undone
  // on lambda: the last pass does both at once, the others follow from the block's buffer.
  template <bool SIGNED, bool TAN>
  static void sweep_gradient_blocks(const SweepCall<T>& call) {
    const Sweep& sweep = *call.sweep;
    const V* source = lines(call.source);
    V* target = lines(call.target);
    const V* psi = lines(call.psi);
    V buffer[1 << kMaxSweepBits];
    V turns[3 * kMaxSweepBits];
    V sums[2 * kMaxSweepBits];  // a pair a rotation: of blocks where it turns one way, the other
    both_turns<TAN>(call, turns);
    for (V& sum : sums) sum = V{};
    if (sweep.n_passes == 1) {
      call.unapply ? single_gradient_of<SIGNED, TAN, true>(call, turns, sums)
                   : single_gradient_of<SIGNED, TAN, false>(call, turns, sums);
      return;
    }
    const Steps steps(sweep);
    int64_t flush_at = call.begin + kFlush / 16;
    const int last = sweep.n_passes - 1;
    const int* bits = sweep.pass_bits;
    for (int64_t block = call.begin; block < call.end; ++block) {
      for (int set = call.first_set; set < call.n_sets; ++set) {
        const uint32_t flips = flips_of(sweep, block, set);
        const uint32_t base = sweep.base[block] | (set ? sweep.plane_bit : 0);
        int lo = 0;
        if (block == flush_at) {
          flush_pairs(sums, sweep.bits, call.gradient);
          flush_at += kFlush / 16;
        }
        const auto& of = steps.of;
        if (!call.unapply) {
          for (int i = 0; i <= last; lo += bits[i++])
            gradient_pass_of<true, true, SIGNED, TAN, false>(
                bits[i], sweep, of[i], lo, base, source, target, psi, turns, flips, sums);
        } else {
          gradient_pass_of<true, false, SIGNED, TAN, false>(
              bits[0], sweep, of[0], 0, base, source, buffer, psi, turns, flips, sums);
          lo = bits[0];
          for (int i = 1; i < last; lo += bits[i++])
            gradient_pass_of<false, false, SIGNED, TAN, false>(
                bits[i], sweep, of[i], lo, base, buffer, buffer, psi, turns, flips, sums);
          gradient_pass_of<false, false, SIGNED, TAN, true>(
              bits[last], sweep, of[last], lo, base, buffer, buffer, psi, turns, flips, sums);
          for (int i = last - 1; i > 0; --i) {
            lo -= bits[i];
            pass_of<false, false, SIGNED, TAN>(bits[i], sweep, of[i], lo, base, buffer, buffer,
                                               turns, flips);
          }
          pass_of<false, true, SIGNED, TAN>(bits[0], sweep, of[0], 0, base, buffer, target, turns,
                                            flips);
        }
      }
    }
    flush_pairs(sums, sweep.bits, call.gradient);
  }

  static void sweep_gradient(const SweepCall<T>& call) {
    const bool is_signed = call.sweep->negative != nullptr;
    if (call.rows_form) {
      is_signed ? sweep_gradient_blocks<true, false>(call)
                : sweep_gradient_blocks<false, false>(call);
    } else {
      is_signed ? sweep_gradient_blocks<true, true>(call)
                : sweep_gradient_blocks<false, true>(call);
    }
  }

  // ---- diagonals --------------------------------------------------------------------------------

  template <bool PER_LINE>
  INLINE V table_at(const T* table, int64_t line) {
    return PER_LINE ? lines(table)[line] : splat(table[line]);
  }

  template <bool PER_LINE>
  static void diagonal_lines(const DiagonalCall<T>& call) {
    const V* source = lines(call.source);
    V* target = lines(call.target);
    const T* cosines = call.table;
    const T* sines = call.table + call.table_stride;
    const V turn = splat(call.conjugate ? T(-1) : T(1));
    const int64_t plane = call.plane;
    if (call.real_source) {
      for (int64_t i = call.begin; i < call.end; ++i) {
        const V c = table_at<PER_LINE>(cosines, i), s = table_at<PER_LINE>(sines, i) * turn;
        const V re = source[i];
        target[i] = c * re;
        target[i + plane] = s * re;
      }
      return;
    }
    for (int64_t i = call.begin; i < call.end; ++i) {
      const V c = table_at<PER_LINE>(cosines, i), s = table_at<PER_LINE>(sines, i) * turn;
      const V re = source[i], im = source[i + plane];
      target[i] = c * re - s * im;
      target[i + plane] = c * im + s * re;
    }
  }

  static void diagonal(const DiagonalCall<T>& call) {
    call.per_line ? diagonal_lines<true>(call) : diagonal_lines<false>(call);
  }

  typedef decltype(V{} > V{}) Index;

  INLINE Index exchange_index(uint32_t mask) {
    Index index;
    for (int i = 0; i < W; ++i) index[i] = i ^ int(mask);
    return index;
  }

  // Lane i of the result is lane i ^ mask of the argument; mask < W.
  INLINE V exchange(V value, uint32_t mask) {
    return __builtin_shuffle(value, exchange_index(mask));
  }

  // Sums along three axes of eight values: three differences, and the total in r[0].
  INLINE void tree(V* r, V* differences) {
    UNROLL for (int j = 0; j < 3; ++j) {
      V d{};
      UNROLL for (int a = 0; a < (8 >> j); a += 2) {
        d += r[a] - r[a + 1];
        r[a / 2] = r[a] + r[a + 1];
      }
      differences[j] += d;
    }
  }

  // First level of the tree, for the Gray-code positions [begin, end): three axes and the totals.
  template <bool PER_LINE, bool REAL_PSI, bool UNDO, bool OBSERVE>
  static void diagonal_gradient_lines(const DiagonalGradientCall<T>& call) {
    const uint32_t* axis = call.axis;
    V* lambda = lines(call.lambda);
    const V* psi = lines(call.psi);
    V* totals = lines(call.totals);
    const T* sine_table = call.table + call.table_stride;
    const uint32_t plane = call.plane;
    uint32_t corner[8];
    for (int a = 0; a < 8; ++a) {
      corner[a] = (a & 1 ? axis[0] : 0) ^ (a & 2 ? axis[1] : 0) ^ (a & 4 ? axis[2] : 0);
    }
    V differences[3] = {V{}, V{}, V{}};
    V value{};
    const V weight = call.weight ? *lines(call.weight) : splat(T(1));
    const uint32_t begin = uint32_t(call.begin), end = uint32_t(call.end);
    uint32_t base = 0;
    for (uint32_t gray = begin ^ (begin >> 1), j = 3; gray; gray >>= 1, ++j) {
      base ^= (gray & 1) ? axis[j] : 0;
    }
    for (uint32_t i = begin; i < end; ++i) {
      if ((i & (kFlush / 8 - 1)) == 0) {
        for (int j = 0; j < 3; ++j) flush(differences[j], call.gradient + j * W);
        if constexpr (OBSERVE) flush(value, call.value);
      }
      V r[8];
      UNROLL for (int a = 0; a < 8; ++a) {
        const uint32_t line = base ^ corner[a];
        const V psi_re = psi[line];
        V psi_im{};
        if constexpr (!REAL_PSI) psi_im = psi[line + plane];
        V re, im;
        if constexpr (UNDO) {
          const V c = table_at<PER_LINE>(call.table, line);
          const V s = table_at<PER_LINE>(sine_table, line);
          V behind_re, behind_im;
          if constexpr (OBSERVE) {
            V o = table_at<PER_LINE>(call.observable, line ^ call.shift);
            if constexpr (PER_LINE) o = exchange(o, call.lane_shift);
            V turned_re = c * psi_re, turned_im = s * psi_re;
            if constexpr (!REAL_PSI) {
              turned_re -= s * psi_im;
              turned_im += c * psi_im;
            }
            value += o * (turned_re * turned_re + turned_im * turned_im);
            o *= weight;
            behind_re = o * turned_re;
            behind_im = o * turned_im;
          } else {
            behind_re = lambda[line];
            behind_im = lambda[line + plane];
          }
          re = c * behind_re + s * behind_im;
          im = c * behind_im - s * behind_re;
          lambda[line] = re;
          if (!call.real_only) lambda[line + plane] = im;
        } else {
          re = lambda[line];
          im = lambda[line + plane];
        }
        // Im(conj(lambda) psi)
        r[a] = -(im * psi_re);
        if constexpr (!REAL_PSI) r[a] += re * psi_im;
      }
      tree(r, differences);
      totals[i ^ (i >> 1)] = r[0];
      base ^= axis[3 + __builtin_ctz(i + 1)];
    }
    for (int j = 0; j < 3; ++j) flush(differences[j], call.gradient + j * W);
    if constexpr (OBSERVE) flush(value, call.value);
  }

  template <bool PER_LINE, bool REAL_PSI>
  static void diagonal_gradient_of(const DiagonalGradientCall<T>& call) {
    if (call.observable) {
      diagonal_gradient_lines<PER_LINE, REAL_PSI, true, true>(call);
    } else if (call.table) {
      diagonal_gradient_lines<PER_LINE, REAL_PSI, true, false>(call);
    } else {
      diagonal_gradient_lines<PER_LINE, REAL_PSI, false, false>(call);
    }
  }

  static void diagonal_gradient(const DiagonalGradientCall<T>& call) {
    if (call.per_line) {
      call.real_psi ? diagonal_gradient_of<true, true>(call)
                    : diagonal_gradient_of<true, false>(call);
    } else {
      call.real_psi ? diagonal_gradient_of<false, true>(call)
                    : diagonal_gradient_of<false, false>(call);
    }
  }

  // The other levels: axes 3 and up over the totals, then the sum of all.
  static void diagonal_totals(const DiagonalGradientCall<T>& call) {
    V* totals = lines(call.totals);
    for (int axis = 3; axis < call.n_bits; ++axis) {
      V d{};
      const uint32_t n = 1u << (call.n_bits - axis - 1);
      for (uint32_t i = 0; i < n; ++i) {
        const V a = totals[2 * i], b = totals[2 * i + 1];
        d += a - b;
        totals[i] = a + b;
        if ((i & (kFlush - 1)) == 0) flush(d, call.gradient + axis * W);
      }
      flush(d, call.gradient + axis * W);
    }
    V total = totals[0];
    flush(total, call.gradient + call.n_bits * W);
  }

  // ---- observables ------------------------------------------------------------------------------

  template <bool PER_LINE, bool COMPLEX_TABLE, bool REAL_PSI>
  static void observable_lines(const ObservableCall<T>& call) {
    const V* psi = lines(call.psi);
    V* lambda = lines(call.lambda);
    const uint32_t plane = call.plane;
    const V weight = call.weight ? *lines(call.weight) : splat(T(1));
    const V factor = splat(call.factor);
    double* value = call.value;
    V sum{};
    for (uint32_t i = uint32_t(call.begin); i < uint32_t(call.end); ++i) {
      const uint32_t from = i ^ call.mask;
      if ((i & (kFlush - 1)) == 0) flush(sum, value);
      V dr = table_at<PER_LINE>(call.real_table, from ^ call.shift);
      V di{};
      if constexpr (COMPLEX_TABLE) di = table_at<PER_LINE>(call.imaginary_table, from ^ call.shift);
      V re = psi[from], im = REAL_PSI ? V{} : psi[from + plane];
      if constexpr (PER_LINE) {
        dr = exchange(dr, call.lane_mask ^ call.lane_shift);
        di = exchange(di, call.lane_mask ^ call.lane_shift);
        re = exchange(re, call.lane_mask);
        im = exchange(im, call.lane_mask);
      }
      V out_re = dr * re, out_im = dr * im;
      if constexpr (COMPLEX_TABLE) {
        out_re -= di * im;
        out_im += di * re;
      }
      out_re *= factor;
      out_im *= factor;
      sum += psi[i] * out_re;
      if constexpr (!REAL_PSI) sum += psi[i + plane] * out_im;
      if (lambda) {
        if (call.accumulate) {
          lambda[i] += weight * out_re;
          lambda[i + plane] += weight * out_im;
        } else {
          lambda[i] = weight * out_re;
          lambda[i + plane] = weight * out_im;
        }
      }
    }
    flush(sum, value);
  }

  template <bool PER_LINE>
  static void observable_of(const ObservableCall<T>& call) {
    if (call.imaginary_table) {
      call.real_psi ? observable_lines<PER_LINE, true, true>(call)
                    : observable_lines<PER_LINE, true, false>(call);
    } else {
      call.real_psi ? observable_lines<PER_LINE, false, true>(call)
                    : observable_lines<PER_LINE, false, false>(call);
    }
  }

  static void observable(const ObservableCall<T>& call) {
    call.per_line ? observable_of<true>(call) : observable_of<false>(call);
  }

  // ---- one rotation -----------------------------------------------------------------------------

  // +1 or -1 for each lane of a line: (-1)^popcount(z & address).
  INLINE V lane_signs(uint32_t lane_z) {
    V signs;
    for (int i = 0; i < W; ++i) signs[i] = __builtin_popcount(lane_z & unsigned(i)) & 1 ? -1 : 1;
    return signs;
  }

  // (P psi)[x] = i^phase (-1)^(z.(x^mask)) psi[x^mask] for one line, as re and im.
  struct Turned {
    V re, im;
  };
  INLINE Turned turned(const RotationCall<T>& call, const V* psi, uint32_t line, V signs) {
    const uint32_t from = line ^ call.mask;
    V re = psi[from], im = call.real_source ? V{} : psi[from + call.plane];
    V sign = __builtin_popcount(call.z & from) & 1 ? -signs : signs;
    re *= sign;
    im *= sign;
    if (call.lane_mask) {
      re = exchange(re, call.lane_mask);
      im = exchange(im, call.lane_mask);
    }
    switch (call.phase & 3) {
      case 0:
        return {re, im};
      case 1:
        return {-im, re};
      case 2:
        return {-re, -im};
      default:
        return {im, -re};
    }
  }

  // The words that need care: lanes that change places, or no X part at all.
  static void rotate_any(const RotationCall<T>& call) {
    const V* source = lines(call.source);
    V* target = lines(call.target);
    const V c = *lines(call.cosine), s = *lines(call.sine);
    const V signs = lane_signs(call.lane_z);
    const uint32_t top = call.mask ? 1u << (31 - __builtin_clz(call.mask)) : 0;
    for (uint32_t i = uint32_t(call.begin); i < uint32_t(call.end); ++i) {
      if (i & top) continue;  // the partner does both
      const uint32_t j = i ^ call.mask;
      // cos psi - i sin P psi
      const Turned a = turned(call, source, i, signs);
      const V re_i = c * source[i] + s * a.im;
      const V im_i = (call.real_source ? V{} : c * source[i + call.plane]) - s * a.re;
      if (call.mask) {
        const Turned b = turned(call, source, j, signs);
        const V re_j = c * source[j] + s * b.im;
        const V im_j = (call.real_source ? V{} : c * source[j + call.plane]) - s * b.re;
        target[j] = re_j;
        target[j + call.plane] = im_j;
      }
      target[i] = re_i;
      target[i + call.plane] = im_i;
    }
  }

  // One pair of lines. With P imaginary psi' = cos psi + k psi_partner, else cos psi - i k
  // psi_partner, where k is the sine with the sign of the word at the partner.
  template <bool IMAGINARY, bool REAL>
  INLINE void turn_pair(V c, V k_i, V k_j, V& re_i, V& im_i, V& re_j, V& im_j) {
    const V re_0 = re_i, im_0 = im_i, re_1 = re_j, im_1 = im_j;
    if constexpr (IMAGINARY) {
      re_i = c * re_0 + k_i * re_1;
      re_j = c * re_1 + k_j * re_0;
      if constexpr (!REAL) {
        im_i = c * im_0 + k_i * im_1;
        im_j = c * im_1 + k_j * im_0;
      }
    } else if constexpr (REAL) {
      re_i = c * re_0;
      re_j = c * re_1;
      im_i = -k_i * re_1;
      im_j = -k_j * re_0;
    } else {
      re_i = c * re_0 + k_i * im_1;
      im_i = c * im_0 - k_i * re_1;
      re_j = c * re_1 + k_j * im_0;
      im_j = c * im_1 - k_j * re_0;
    }
  }

  // f(i, j, k_i, k_j) for the pairs of lines whose first lies in [begin, end).
  template <class F>
  INLINE void pairs(uint32_t mask, uint32_t z, V sine, uint32_t begin, uint32_t end, F f) {
    const uint32_t top = 1u << (31 - __builtin_clz(mask));
    const V turns[2] = {sine, -sine};
    const int odd = __builtin_popcount(z & mask) & 1;
    for (uint32_t i = begin; i < end; ++i) {
      if (i & top) {
        i += top - 1 - (i & (top - 1));  // to the end of this half
        continue;
      }
      const int sign = __builtin_popcount(z & i) & 1;
      f(i, i ^ mask, turns[sign ^ odd], turns[sign]);
    }
  }

  // The sine with the lanes' signs and that of i^phase.
  INLINE V signed_sine(const T* sine, uint32_t lane_z, int phase) {
    const V s = *lines(sine) * lane_signs(lane_z);
    return phase < 2 ? s : -s;
  }

  template <bool IMAGINARY, bool REAL>
  static void rotate_pairs(const RotationCall<T>& call) {
    const V* source = lines(call.source);
    V* target = lines(call.target);
    const V c = *lines(call.cosine);
    const uint32_t plane = call.plane;
    pairs(call.mask, call.z, signed_sine(call.sine, call.lane_z, call.phase), uint32_t(call.begin),
          uint32_t(call.end), [&](uint32_t i, uint32_t j, V k_i, V k_j) __attribute__((always_inline)) {
            V re_i = source[i], re_j = source[j], im_i{}, im_j{};
            if constexpr (!REAL) {
              im_i = source[i + plane];
              im_j = source[j + plane];
            }
            turn_pair<IMAGINARY, REAL>(c, k_i, k_j, re_i, im_i, re_j, im_j);
            target[i] = re_i;
            target[j] = re_j;
            if constexpr (!(IMAGINARY && REAL)) {
              target[i + plane] = im_i;
              target[j + plane] = im_j;
            }
          });
  }

  static void rotate(const RotationCall<T>& call) {
    if (call.lane_mask || !call.mask) {
      rotate_any(call);
    } else if (call.phase & 1) {
      call.real_source ? rotate_pairs<true, true>(call) : rotate_pairs<true, false>(call);
    } else {
      call.real_source ? rotate_pairs<false, true>(call) : rotate_pairs<false, false>(call);
    }
  }

  // ---- rotations across lanes -------------------------------------------------------------------

  static constexpr int L = 1 << kLaneBits;  // lines of a coset

  // f(p, q) for every line p of a coset with its partner q.
  template <class F>
  INLINE void partners(uint32_t partner, F f) {
    switch (partner) {
      case 0:
        UNROLL for (int e = 0; e < L; ++e) f(e, e);
        return;
      case 1:
        UNROLL for (int e = 0; e < L; ++e) f(e, e ^ 1);
        return;
      case 2:
        UNROLL for (int e = 0; e < L; ++e) f(e, e ^ 2);
        return;
      default:
        UNROLL for (int e = 0; e < L; ++e) f(e, e ^ 3);
    }
  }

  // The factor of -i P for every line of a coset and both signs of its base: [2][L] a rotation.
  INLINE void lane_factors(const LaneSweep& sweep, const V* given, int stride, V way, V* factors) {
    for (int j = 0; j < sweep.n_rotations; ++j) {
      const LaneRotation& r = sweep.rotations[j];
      const V turn = given[stride * j] * (r.turns < 2 ? way : -way);
      for (int e = 0; e < L; ++e) {
        const bool flip = r.signs >> e & 1;
        factors[2 * L * j + e] = flip ? -turn : turn;
        factors[2 * L * j + L + e] = flip ? turn : -turn;
      }
    }
  }

  INLINE const V* factors_at(const LaneRotation& r, const V* factors, int j, uint32_t base) {
    return factors + 2 * L * j + (__builtin_popcount(r.z & base) & 1 ? L : 0);
  }

  // One rotation in place: re, im times c, plus the partners' lines times their factors.
  INLINE void lane_turn(const LaneRotation& r, const V* factor, V c, V* re, V* im) {
    const Index index = exchange_index(r.lane_mask);
    V out_re[L], out_im[L];
    if (r.turns & 1) {
      partners(r.partner, [&](int p, int q) __attribute__((always_inline)) {
        out_re[p] = c * re[p] + factor[q] * __builtin_shuffle(re[q], index);
        out_im[p] = c * im[p] + factor[q] * __builtin_shuffle(im[q], index);
      });
    } else {
      partners(r.partner, [&](int p, int q) __attribute__((always_inline)) {
        out_re[p] = c * re[p] + factor[q] * __builtin_shuffle(im[q], index);
        out_im[p] = c * im[p] - factor[q] * __builtin_shuffle(re[q], index);
      });
    }
    UNROLL for (int e = 0; e < L; ++e) {
      re[e] = out_re[e];
      im[e] = out_im[e];
    }
  }

  static void lane_sweep(const LaneCall<T>& call) {
    const LaneSweep& sweep = *call.sweep;
    const V* source = lines(call.source);
    V* target = lines(call.target);
    const V* given = lines(call.coefficient);
    V factors[2 * L * kMaxLaneRotations];
    lane_factors(sweep, given + 1, 2, splat(call.inverse ? T(-1) : T(1)), factors);
    for (int64_t block = call.begin; block < call.end; ++block) {
      const uint32_t base = sweep.base[block];
      V re[L], im[L];
      UNROLL for (int e = 0; e < L; ++e) {
        re[e] = source[base ^ sweep.offset[e]];
        im[e] = call.real_source ? V{} : source[(base ^ sweep.offset[e]) + call.plane];
      }
      for (int j = 0; j < sweep.n_rotations; ++j) {
        const LaneRotation& r = sweep.rotations[j];
        const V* factor = factors_at(r, factors, j, base);
        if (call.tangent) {
          lane_turn(r, factor, splat(T(1)), re, im);
        } else {
          lane_turn(r, factor, given[2 * j], re, im);
        }
      }
      UNROLL for (int e = 0; e < L; ++e) {
        target[base ^ sweep.offset[e]] = re[e];
        target[(base ^ sweep.offset[e]) + call.plane] = im[e];
      }
    }
  }

  static void lane_gradient(const LaneCall<T>& call) {
    const LaneSweep& sweep = *call.sweep;
    const V* psi = lines(call.psi);
    V* lambda = lines(call.target);
    const V* given = lines(call.coefficient);
    V factors[2 * L * kMaxLaneRotations], signs[2 * L * kMaxLaneRotations];
    lane_factors(sweep, given + 1, 2, splat(T(-1)), factors);
    lane_factors(sweep, lines(call.lane_signs), 1, splat(T(1)), signs);
    V sums[kMaxLaneRotations];
    for (V& sum : sums) sum = V{};
    for (int64_t block = call.begin; block < call.end; ++block) {
      const uint32_t base = sweep.base[block];
      V re[L], im[L], x[L], y[L];
      if ((block & (kFlush / 4 - 1)) == 0)
        for (int j = 0; j < sweep.n_rotations; ++j) flush(sums[j], call.gradient + j * W);
      UNROLL for (int e = 0; e < L; ++e) {
        const uint32_t line = base ^ sweep.offset[e];
        re[e] = lambda[line];
        im[e] = lambda[line + call.plane];
        x[e] = psi[line];
        y[e] = call.real_psi ? V{} : psi[line + call.plane];
      }
      for (int j = 0; j < sweep.n_rotations; ++j) {
        const LaneRotation& r = sweep.rotations[j];
        const V* sign = factors_at(r, signs, j, base);
        const Index index = exchange_index(r.lane_mask);
        V sum{};
        if (r.turns & 1) {
          partners(r.partner, [&](int p, int q) __attribute__((always_inline)) {
            sum += sign[q] * (re[p] * __builtin_shuffle(x[q], index) +
                              im[p] * __builtin_shuffle(y[q], index));
          });
        } else {
          partners(r.partner, [&](int p, int q) __attribute__((always_inline)) {
            sum += sign[q] * (re[p] * __builtin_shuffle(y[q], index) -
                              im[p] * __builtin_shuffle(x[q], index));
          });
        }
        sums[j] += sum;
      }
      if (!call.unapply) continue;
      for (int j = 0; j < sweep.n_rotations; ++j) {
        const LaneRotation& r = sweep.rotations[j];
        const V* factor = factors_at(r, factors, j, base);
        lane_turn(r, factor, call.tangent ? splat(T(1)) : given[2 * j], re, im);
      }
      UNROLL for (int e = 0; e < L; ++e) {
        lambda[base ^ sweep.offset[e]] = re[e];
        lambda[(base ^ sweep.offset[e]) + call.plane] = im[e];
      }
    }
    for (int j = 0; j < sweep.n_rotations; ++j) flush(sums[j], call.gradient + j * W);
  }

  template <bool PER_LINE>
  INLINE V measured(const MeasureCall<T>& call, uint32_t line, V re, V im) {
    const V c = table_at<PER_LINE>(call.table, line);
    const V s = table_at<PER_LINE>(call.table + call.table_stride, line);
    V o = table_at<PER_LINE>(call.observable, line ^ call.shift);
    if constexpr (PER_LINE) o = exchange(o, call.lane_shift);
    const V turned_re = c * re - s * im, turned_im = c * im + s * re;
    return o * (turned_re * turned_re + turned_im * turned_im);
  }

  // TURN: 0 no rotation, 1 an imaginary word, 2 a real one.
  template <bool PER_LINE, bool REAL, int TURN>
  static void measure_lines(const MeasureCall<T>& call) {
    const V* psi = lines(call.psi);
    const uint32_t plane = call.plane;
    double value[W] = {};
    V sum{};
    if constexpr (TURN == 0) {
      for (uint32_t i = uint32_t(call.begin); i < uint32_t(call.end); ++i) {
        V im{};
        if constexpr (!REAL) im = psi[i + plane];
        sum += measured<PER_LINE>(call, i, psi[i], im);
        if ((i & (kFlush - 1)) == 0) flush(sum, value);
      }
    } else {
      const V cosine = *lines(call.cosine);
      V other{};
      pairs(call.mask, call.z, signed_sine(call.sine, call.lane_z, call.phase),
            uint32_t(call.begin), uint32_t(call.end),
            [&](uint32_t i, uint32_t j, V k_i, V k_j) __attribute__((always_inline)) {
              V re_i = psi[i], re_j = psi[j], im_i{}, im_j{};
              if constexpr (!REAL) {
                im_i = psi[i + plane];
                im_j = psi[j + plane];
              }
              turn_pair<TURN == 1, REAL>(cosine, k_i, k_j, re_i, im_i, re_j, im_j);
              sum += measured<PER_LINE>(call, i, re_i, im_i);
              other += measured<PER_LINE>(call, j, re_j, im_j);
              if ((i & (kFlush - 1)) == 0) {
                sum += other;
                other = V{};
                flush(sum, value);
              }
            });
      sum += other;
    }
    flush(sum, value);
    for (int i = 0; i < W; ++i) call.value[i] += value[i] * double(call.factor);
  }

  template <bool PER_LINE, bool REAL>
  static void measure_of(const MeasureCall<T>& call) {
    if (!call.rotated) {
      measure_lines<PER_LINE, REAL, 0>(call);
    } else if (call.phase & 1) {
      measure_lines<PER_LINE, REAL, 1>(call);
    } else {
      measure_lines<PER_LINE, REAL, 2>(call);
    }
  }

  static void measure(const MeasureCall<T>& call) {
    if (call.per_line) {
      call.real_psi ? measure_of<true, true>(call) : measure_of<true, false>(call);
    } else {
      call.real_psi ? measure_of<false, true>(call) : measure_of<false, false>(call);
    }
  }

  // Im <lambda|P|psi>
  static void rotate_gradient(const RotationCall<T>& call) {
    const V* psi = lines(call.source);
    const V* lambda = lines(call.lambda);
    const V signs = lane_signs(call.lane_z);
    V sum{};
    for (uint32_t i = uint32_t(call.begin); i < uint32_t(call.end); ++i) {
      const Turned a = turned(call, psi, i, signs);
      sum += lambda[i] * a.im - lambda[i + call.plane] * a.re;
      if ((i & (kFlush - 1)) == 0) flush(sum, call.gradient);
    }
    flush(sum, call.gradient);
  }

  // ---- tables -----------------------------------------------------------------------------------

  // Coefficients of Cephes sin.c and cos.c (Moshier, 1984), good to one unit in the last place.
  static void sincos(const double* angles, int64_t n, double factor, T* cosines, T* sines) {
    const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
    for (int64_t i = 0; i < n; ++i) {
      const double x = angles[i];
      const double shifted = x * 0.63661977236758134308 + magic;
      const double k = shifted - magic;
      const double z =
          ((x - k * 1.57079625129699707031) - k * 7.54978941586159635336e-8) -
          k * 5.39030285815811905290e-15;
      int64_t bits;
      __builtin_memcpy(&bits, &shifted, 8);
      const double w = z * z;
      const double sine =
          z + z * w *
                  (((((1.58962301576546568060e-10 * w - 2.50507477628578072866e-8) * w +
                      2.75573136213857245213e-6) * w - 1.98412698295895385996e-4) * w +
                    8.33333333332211858878e-3) * w - 1.66666666666666307295e-1);
      const double cosine =
          1.0 - 0.5 * w +
          w * w *
              (((((-1.13585365213876817300e-11 * w + 2.08757008419747316778e-9) * w -
                  2.75573141792967388112e-7) * w + 2.48015872888517045348e-5) * w -
                1.38888888888730564116e-3) * w + 4.16666666666665929218e-2);
      const bool swap = bits & 1;
      const double s = swap ? cosine : sine, c = swap ? sine : cosine;
      sines[i] = T((bits & 2) ? -s * factor : s * factor);
      cosines[i] = T(((bits + 1) & 2) ? -c * factor : c * factor);
    }
  }

  // Lines of doubles at any address, whatever T is.
  template <class U>
  struct Line {
    typedef U Type __attribute__((vector_size(BYTES)));
  };
  typedef typename Line<double>::Type D;
  typedef typename Line<int64_t>::Type DIndex;
  static constexpr int kDoubles = BYTES / 8;
  INLINE D load_doubles(const double* p) {
    D line;
    __builtin_memcpy(&line, p, BYTES);
    return line;
  }
  INLINE void store_doubles(double* p, D line) { __builtin_memcpy(p, &line, BYTES); }

  static void walsh(double* values, int bits) {
    const int64_t n = int64_t(1) << bits;
    int b = 0;
    if (n >= kDoubles) {  // the bits within a line
      for (int64_t i = 0; i < n; i += kDoubles) {
        D line = load_doubles(values + i);
        UNROLL for (int h = 1; h < kDoubles; h *= 2) {
          DIndex partner;
          D sign;
          for (int j = 0; j < kDoubles; ++j) {
            partner[j] = j ^ h;
            sign[j] = j & h ? -1.0 : 1.0;
          }
          line = sign * line + __builtin_shuffle(line, partner);
        }
        store_doubles(values + i, line);
      }
      while ((1 << b) < kDoubles) ++b;
    }
    for (; b + 1 < bits && (1 << b) >= kDoubles; b += 2) {  // two bits a pass
      const int64_t h = int64_t(1) << b;
      for (int64_t i = 0; i < n; i += 4 * h) {
        for (int64_t j = i; j < i + h; j += kDoubles) {
          const D p = load_doubles(values + j), q = load_doubles(values + j + h);
          const D r = load_doubles(values + j + 2 * h), s = load_doubles(values + j + 3 * h);
          const D sum = p + q, difference = p - q, sum_2 = r + s, difference_2 = r - s;
          store_doubles(values + j, sum + sum_2);
          store_doubles(values + j + h, difference + difference_2);
          store_doubles(values + j + 2 * h, sum - sum_2);
          store_doubles(values + j + 3 * h, difference - difference_2);
        }
      }
    }
    for (; b < bits; ++b) {
      const int64_t h = int64_t(1) << b;
      for (int64_t i = 0; i < n; i += 2 * h) {
        double* low = values + i;
        double* high = values + i + h;
        for (int64_t j = 0; j < h; ++j) {
          const double p = low[j], q = high[j];
          low[j] = p + q;
          high[j] = p - q;
        }
      }
    }
  }

  // ---- encodings --------------------------------------------------------------------------------

  static void combine(const T* __restrict a, const T* __restrict b, T c, T d, int64_t n,
                      T* __restrict out) {
    for (int64_t i = 0; i < n; ++i) out[i] = c * a[i] + d * b[i];
  }

  static void multiply_tables(const double* __restrict a_re, const double* __restrict a_im,
                              const double* b_re, const double* b_im, int64_t step, int64_t n,
                              double* __restrict re, double* __restrict im) {
    if (step == 0) {
      const double c = *b_re, s = *b_im;
      for (int64_t i = 0; i < n; ++i) {
        re[i] = a_re[i] * c - a_im[i] * s;
        im[i] = a_re[i] * s + a_im[i] * c;
      }
      return;
    }
    const double* __restrict c = b_re;
    const double* __restrict s = b_im;
    for (int64_t i = 0; i < n; ++i) {
      re[i] = a_re[i] * c[i] - a_im[i] * s[i];
      im[i] = a_re[i] * s[i] + a_im[i] * c[i];
    }
  }

  static void interleave(const double* __restrict re, const double* __restrict im, double factor,
                         int64_t n, T* __restrict out) {
    for (int64_t i = 0; i < n; ++i) {
      out[2 * i] = T(re[i] * factor);
      out[2 * i + 1] = T(im[i] * factor);
    }
  }

  static double squares(const T* values, int64_t n) {
    double sums[16] = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      UNROLL for (int j = 0; j < 16; ++j) sums[j] += double(values[i + j]) * double(values[i + j]);
    }
    double sum = 0;
    for (; i < n; ++i) sum += double(values[i]) * double(values[i]);
    for (int j = 0; j < 16; ++j) sum += sums[j];
    return sum;
  }

  // ---- rows and lines ---------------------------------------------------------------------------

  INLINE void transpose(V* r) {
    UNROLL for (int h = W / 2; h > 0; h /= 2) {
      Index first, second;
      for (int i = 0; i < W; ++i) {
        first[i] = i & h ? W + (i & ~h) : i;
        second[i] = i & h ? W + i : i | h;
      }
      UNROLL for (int i = 0; i < W; ++i) {
        if (i & h) continue;
        const V a = r[i], b = r[i | h];
        r[i] = __builtin_shuffle(a, b, first);
        r[i | h] = __builtin_shuffle(a, b, second);
      }
    }
  }

  // Lays W rows of n numbers into lines: number x of every row goes to line[x]. Adds the squares of
  // the numbers at even and odd places (real and imaginary parts of complex rows) to two lines.
  static void load(const T* const* rows, int64_t n, const uint32_t* line, T* target,
                   double* squares) {
    V* out = lines(target);
    V even{}, odd{};
    int64_t x = 0;
    for (; x + W <= n; x += W) {
      V r[W];
      for (int i = 0; i < W; ++i) __builtin_memcpy(&r[i], rows[i] + x, BYTES);
      transpose(r);
      if ((x & (kFlush - 1)) == 0) {
        flush(even, squares);
        flush(odd, squares + W);
      }
      UNROLL for (int i = 0; i < W; i += 2) {
        even += r[i] * r[i];
        odd += r[i + 1] * r[i + 1];
        out[line[x + i]] = r[i];
        out[line[x + i + 1]] = r[i + 1];
      }
    }
    for (; x < n; ++x) {
      V r;
      for (int i = 0; i < W; ++i) r[i] = rows[i][x];
      (x & 1 ? odd : even) += r * r;
      out[line[x]] = r;
    }
    flush(even, squares);
    flush(odd, squares + W);
  }

  // The other way, times a factor per row; rows beyond n_rows are not written.
  static void store(const T* source, int64_t n, const uint32_t* line, const T* factor,
                    T* const* rows, int n_rows) {
    const V* in = lines(source);
    const V scale = *lines(factor);
    int64_t x = 0;
    for (; x + W <= n; x += W) {
      V r[W];
      for (int i = 0; i < W; ++i) r[i] = in[line[x + i]] * scale;
      transpose(r);
      for (int i = 0; i < n_rows; ++i) __builtin_memcpy(rows[i] + x, &r[i], BYTES);
    }
    for (; x < n; ++x) {
      const V r = in[line[x]] * scale;
      for (int i = 0; i < n_rows; ++i) rows[i][x] = r[i];
    }
  }

  // ---- states made in lines ---------------------------------------------------------------------

  // The product doubles with each bit, the lowest first.
  template <bool REAL>
  static void product_lines(const ProductCall<T>& call) {
    V* re = lines(call.target);
    V* im = re + call.plane;
    const V* factor = lines(call.factors);
    const uint32_t* line = call.line;
    re[line[0]] = splat(T(1));
    if constexpr (!REAL) im[line[0]] = V{};
    for (int bit = 0; bit < call.n_bits; ++bit, factor += 4) {
      const uint32_t size = 1u << bit, step = line[size];
      const V zero_re = factor[0], zero_im = factor[1], one_re = factor[2], one_im = factor[3];
      for (uint32_t i = 0; i < size; ++i) {
        const uint32_t low = line[i], high = low ^ step;
        const V x = re[low];
        if constexpr (REAL) {
          re[low] = x * zero_re;
          re[high] = x * one_re;
        } else {
          const V y = im[low];
          re[low] = x * zero_re - y * zero_im;
          im[low] = x * zero_im + y * zero_re;
          re[high] = x * one_re - y * one_im;
          im[high] = x * one_im + y * one_re;
        }
      }
    }
  }

  static void product(const ProductCall<T>& call) {
    call.real ? product_lines<true>(call) : product_lines<false>(call);
  }

  // The Walsh-Hadamard transform of every row over bits [bit, bit + K).
  template <int K>
  INLINE void walsh_bits(V* values, const uint32_t* line, int n_bits, int bit) {
    uint32_t step[1 << K];
    UNROLL for (int a = 0; a < (1 << K); ++a) step[a] = line[uint32_t(a) << bit];
    for (uint32_t high = 0; high < (1u << n_bits); high += 1u << (bit + K)) {
      for (uint32_t i = high; i < high + (1u << bit); ++i) {
        const uint32_t base = line[i];
        V r[1 << K];
        UNROLL for (int a = 0; a < (1 << K); ++a) r[a] = values[base ^ step[a]];
        UNROLL for (int j = 0; j < K; ++j) {
          UNROLL for (int a = 0; a < (1 << K); ++a) {
            if (a & (1 << j)) continue;
            const V p = r[a], q = r[a | (1 << j)];
            r[a] = p + q;
            r[a | (1 << j)] = p - q;
          }
        }
        UNROLL for (int a = 0; a < (1 << K); ++a) values[base ^ step[a]] = r[a];
      }
    }
  }

  static void walsh_lines(V* values, const uint32_t* line, int n_bits) {
    int bit = 0;
    for (; bit + 4 <= n_bits; bit += 4) walsh_bits<4>(values, line, n_bits, bit);
    for (; bit + 2 <= n_bits; bit += 2) walsh_bits<2>(values, line, n_bits, bit);
    for (; bit < n_bits; ++bit) walsh_bits<1>(values, line, n_bits, bit);
  }

  // D doubles with each bit: where it is set, D gains the product P of the phases that this bit has
  // by itself and with the bits below it.
  static void phases(const PhaseCall<T>& call) {
    const int n = call.n_bits;
    const uint32_t size = 1u << n;
    const uint32_t* line = call.line;
    const V* c = lines(call.cosines);
    const V* s = lines(call.sines);
    V* re = lines(call.target);
    V* im = re + call.plane;
    V* p_re = lines(call.products);
    V* p_im = p_re + size / 2;
    re[line[0]] = c[0] * call.scale;
    im[line[0]] = s[0] * call.scale;
    for (int bit = 0; bit < n; ++bit) {
      const int qubit = n - 1 - bit;
      const int pairs = n + qubit * (2 * n - qubit - 1) / 2 - qubit;  // [later qubit]
      p_re[0] = c[1 + qubit];
      p_im[0] = s[1 + qubit];
      for (int below = 0; below < bit; ++below) {
        const V turn_re = c[pairs + n - 1 - below], turn_im = s[pairs + n - 1 - below];
        for (uint32_t i = 0, k = 1u << below; i < k; ++i) {
          p_re[k + i] = p_re[i] * turn_re - p_im[i] * turn_im;
          p_im[k + i] = p_re[i] * turn_im + p_im[i] * turn_re;
        }
      }
      const uint32_t step = line[1u << bit];
      for (uint32_t i = 0; i < (1u << bit); ++i) {
        const uint32_t low = line[i], high = low ^ step;
        re[high] = re[low] * p_re[i] - im[low] * p_im[i];
        im[high] = re[low] * p_im[i] + im[low] * p_re[i];
      }
    }
    if (call.repeats > 1) {
      V* d_re = lines(call.table);
      V* d_im = d_re + size;
      for (uint32_t i = 0; i < size; ++i) {
        d_re[i] = re[i];
        d_im[i] = im[i];
      }
      for (int round = 1; round < call.repeats; ++round) {
        walsh_lines(re, line, n);
        walsh_lines(im, line, n);
        for (uint32_t i = 0; i < size; ++i) {
          const V x = re[i], y = im[i];
          re[i] = x * d_re[i] - y * d_im[i];
          im[i] = x * d_im[i] + y * d_re[i];
        }
      }
    }
    if (!call.closes) return;
    walsh_lines(re, line, n);
    walsh_lines(im, line, n);
    for (uint32_t i = 0; i < size; ++i) {
      re[i] *= call.scale;
      im[i] *= call.scale;
    }
  }

  static void collect(const double* __restrict gradient, const int32_t* place, const double* factor,
                      const int32_t* slot, int64_t n, int64_t n_slots, double* __restrict sums,
                      T* __restrict out) {
    if (n_slots == 0) return;
    __builtin_memset(sums, 0, size_t(n_slots) * W * sizeof(double));
    for (int64_t t = 0; t < n; ++t) {
      double* sum = sums + int64_t(slot[t]) * W;
      const double* line = gradient + int64_t(place[t]) * W;
      for (int lane = 0; lane < W; ++lane) sum[lane] += factor[t] * line[lane];
    }
    for (int64_t i = 0; i < n_slots * W; ++i) out[i] = T(sums[i]);
  }

  // ---- dense matrices ---------------------------------------------------------------------------

  // A matrix over 2^k lines of every coset base[i] ^ offset[.], complex row-major pairs.
  static void dense(const DenseCall<T>& call) {
    const V* source = lines(call.source);
    V* target = lines(call.target);
    V* re = lines(call.scratch);
    V* im = re + call.size;
    for (int64_t b = call.begin; b < call.end; ++b) {
      for (int64_t i = 0; i < call.size; ++i) {
        re[i] = source[call.base[b] ^ call.offset[i]];
        im[i] = source[(call.base[b] ^ call.offset[i]) + call.plane];
      }
      const T* m = call.matrix;
      for (int64_t i = 0; i < call.size; ++i) {
        V sum_re{}, sum_im{};
        for (int64_t j = 0; j < call.size; ++j, m += 2) {
          sum_re += splat(m[0]) * re[j] - splat(m[1]) * im[j];
          sum_im += splat(m[0]) * im[j] + splat(m[1]) * re[j];
        }
        target[call.base[b] ^ call.offset[i]] = sum_re;
        target[(call.base[b] ^ call.offset[i]) + call.plane] = sum_im;
      }
    }
  }

  static double multiply_add(int64_t rounds) {
    V chains[kMultiplyAddChains];
    for (int i = 0; i < kMultiplyAddChains; ++i) chains[i] = splat(T(i));
    const V factor = splat(T(0.999)), term = splat(T(0.001));
    for (int64_t round = 0; round < rounds; ++round) {
      UNROLL for (int i = 0; i < kMultiplyAddChains; ++i) chains[i] = chains[i] * factor + term;
    }
    double sum = 0;
    for (int i = 0; i < kMultiplyAddChains; ++i) sum += double(chains[i][0]);
    return sum;
  }

#ifdef __SSE2__
  // Stores that go past the caches, of the widest kind that divides every line of the build.
  static constexpr int kStreamed = QDP_BYTES > 32 ? 32 : QDP_BYTES;
  INLINE void stream(const char* from, char* to) {
    typedef long long Words __attribute__((vector_size(kStreamed)));
#if QDP_BYTES > 16
    __builtin_ia32_movntdq256(reinterpret_cast<Words*>(to), *reinterpret_cast<const Words*>(from));
#else
    __builtin_ia32_movntdq(reinterpret_cast<Words*>(to), *reinterpret_cast<const Words*>(from));
#endif
  }
#endif

  // a = b + factor c over n lines; `streaming` stores go past the caches.
  static void triad(const T* b, const T* c, T* a, int64_t n, bool streaming) {
    const V* p = lines(b);
    const V* q = lines(c);
    V* out = lines(a);
    const V factor = splat(T(0.5));
    for (int64_t i = 0; i < n; ++i) {
      const V sum = p[i] + factor * q[i];
#ifdef __SSE2__
      if (streaming) {
        for (int part = 0; part < BYTES; part += kStreamed)
          stream(reinterpret_cast<const char*>(&sum) + part,
                 reinterpret_cast<char*>(out + i) + part);
        continue;
      }
#endif
      out[i] = sum;
    }
  }

  // As many sums as fit into the registers beside a line of columns and a row's number.
  static constexpr int TILE_ROWS = QDP_BYTES == 64 ? 8 : 4;
  static constexpr int TILE_LINES = 3;

  static void overlap(const T* __restrict rows, const T* __restrict columns, int64_t n,
                      double* __restrict sums, bool first) {
    V sum[TILE_ROWS][TILE_LINES];
    UNROLL for (int r = 0; r < TILE_ROWS; ++r)
      UNROLL for (int c = 0; c < TILE_LINES; ++c) sum[r][c] = V{};
    const V* line = lines(columns);
    for (int64_t k = 0; k < n; ++k) {
      V column[TILE_LINES];
      UNROLL for (int c = 0; c < TILE_LINES; ++c) column[c] = line[c];
      UNROLL for (int r = 0; r < TILE_ROWS; ++r) {
        const V row = splat(rows[r]);
        UNROLL for (int c = 0; c < TILE_LINES; ++c) sum[r][c] += row * column[c];
      }
      line += TILE_LINES;
      rows += TILE_ROWS;
    }
    UNROLL for (int r = 0; r < TILE_ROWS; ++r)
      UNROLL for (int c = 0; c < TILE_LINES; ++c) {
        double* out = sums + (r * TILE_LINES + c) * W;
        for (int i = 0; i < W; ++i)
          out[i] = first ? double(sum[r][c][i]) : out[i] + double(sum[r][c][i]);
      }
  }

  static constexpr KernelTable<T> table() {
    return {W, sweep, sweep_gradient, diagonal, diagonal_gradient, diagonal_totals,
            observable, measure, lane_sweep, lane_gradient, rotate, rotate_gradient,
            sincos, walsh, load, store, product, phases, collect, dense,
            multiply_add, triad, combine, multiply_tables, interleave, squares,
            TILE_ROWS, TILE_LINES, overlap};
  }
};

#if QDP_BYTES == 64
static const KernelTable<double> doubles[] = {Kernels<double, 64>::table(),
                                              Kernels<double, 32>::table()};
static const KernelTable<float> floats[] = {Kernels<float, 64>::table(),
                                            Kernels<float, 32>::table()};

template <class T, int BYTES>
constexpr KernelTable<T> split_table() {
  KernelTable<T> table = Kernels<T, BYTES>::table();
  table.sweep = Kernels<T, BYTES, true>::sweep;
  table.sweep_gradient = Kernels<T, BYTES, true>::sweep_gradient;
  return table;
}
static const KernelTable<double> split_doubles[] = {split_table<double, 64>(),
                                                    split_table<double, 32>()};
static const KernelTable<float> split_floats[] = {split_table<float, 64>(),
                                                  split_table<float, 32>()};
#else
static const KernelTable<double> doubles[] = {Kernels<double, QDP_BYTES>::table()};
static const KernelTable<float> floats[] = {Kernels<float, QDP_BYTES>::table()};
#endif

constexpr int n_tables = sizeof(doubles) / sizeof(doubles[0]);
extern const InstructionSet<double> instruction_set_double;
extern const InstructionSet<float> instruction_set_float;
const InstructionSet<double> instruction_set_double = {doubles, n_tables};
const InstructionSet<float> instruction_set_float = {floats, n_tables};
#if QDP_BYTES == 64
extern const InstructionSet<double> split_instruction_set_double;
extern const InstructionSet<float> split_instruction_set_float;
const InstructionSet<double> split_instruction_set_double = {split_doubles, n_tables};
const InstructionSet<float> split_instruction_set_float = {split_floats, n_tables};
#endif

}  // namespace QDP_ISA
}  // namespace qdp
