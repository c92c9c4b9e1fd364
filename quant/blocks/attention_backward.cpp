// Attention, backwards: see attention_node.h. With P = softmax(S), S = cap(scale Q K^T) - bias and
// O = P V:
//   dV = P^T dO     dP = dO V^T     dS = P (dP - rowsum(P dP))     cap: times 1 - (S / softcap)^2
//   dQ = scale dS K     dK = scale dS^T Q
// and then back through the rotation, whose inverse is its transpose, and the norms of the heads.
#include <algorithm>
#include <vector>

#include "quant/blocks/attention_node.h"
#include "quant/blocks/norm_gradient.h"
#include "quant/products/sizes.h"

namespace nibble::quant {
namespace {

// What all threads share.
struct Shared {
  Shared(const AttentionNode& a, int64_t l)
      : attention(a),
        length(l),
        kernels(a),
        rope(a, l),
        inverse(rope),
        blocks(query_blocks(a, l)),
        single(single_thread()) {
    for (float& sin : inverse.sin) sin = -sin;
  }

  const AttentionNode& attention;
  int64_t length;
  AttentionKernels kernels;
  RopeRows rope, inverse;
  std::vector<QueryBlock> blocks;
  runtime::ThreadPool single;
};

// The gradients of one KV head and of the query heads that share it.
class HeadGradient {
 public:
  explicit HeadGradient(Shared& shared)
      : shared_(shared),
        attention_(shared.attention),
        dim_(attention_.head.head_dim),
        width_(attention_.head.width()),
        queries_(at(shared.length * dim_)),
        keys_(queries_.size()),
        dqueries_(queries_.size()),
        dkeys_(queries_.size()),
        dvalues_(queries_.size()) {
    const int64_t most = std::min(shared.length, kQueryRows) * shared.length;
    weights_.resize(at(most));
    dweights_.resize(at(most));
    if (attention_.softcap != 0) capped_.resize(at(most));
  }

  // qkv and dqkv: the first row of the sequence; dout likewise.
  void run(const float* qkv, const float* dout, int64_t kv_head, float* dqkv) {
    const runtime::HeadLayout& head = attention_.head;
    const int64_t key_column = head.key_column() + kv_head * dim_;
    const int64_t value_column = head.value_column() + kv_head * dim_;
    turn_head(attention_, shared_.kernels, shared_.rope, attention_.k_norm, qkv + key_column,
              width_, shared_.length, keys_.data());
    std::fill(dkeys_.begin(), dkeys_.end(), 0.0F);
    std::fill(dvalues_.begin(), dvalues_.end(), 0.0F);
    for (int64_t i = 0; i < attention_.share(); ++i) {
      const int64_t query_head = kv_head * attention_.share() + i, column = query_head * dim_;
      turn_head(attention_, shared_.kernels, shared_.rope, attention_.q_norm, qkv + column, width_,
                shared_.length, queries_.data());
      for (const QueryBlock& block : shared_.blocks) {
        block_gradient(block, query_head, qkv + value_column, dout + column);
      }
      turn_back(attention_.q_norm, qkv + column, dqueries_, dqkv + column);
    }
    turn_back(attention_.k_norm, qkv + key_column, dkeys_, dqkv + key_column);
    for (int64_t p = 0; p < shared_.length; ++p) {
      std::copy_n(dvalues_.data() + p * dim_, dim_, dqkv + p * width_ + value_column);
    }
  }

 private:
  // Adds to dkeys_ and dvalues_ of the keys of the block, and gives dqueries_ of its queries.
  void block_gradient(const QueryBlock& block, int64_t query_head, const float* values,
                      const float* dout) {
    const int64_t rows = block.rows, keys = block.keys();
    const int64_t out_width = attention_.head.heads * dim_;
    attention_weights(shared_.single, attention_, shared_.kernels, block, query_head,
                      queries_.data(), keys_.data(), weights_.data(),
                      capped_.empty() ? nullptr : capped_.data());
    const ConstMatrix p{weights_.data(), rows, keys, keys};
    const Matrix ds{dweights_.data(), rows, keys, keys};
    const ConstMatrix d{dout + block.first * out_width, rows, dim_, out_width};
    const ConstMatrix v{values + block.low * width_, keys, dim_, width_};
    const ConstMatrix q{queries_.data() + block.first * dim_, rows, dim_, dim_};
    const ConstMatrix k{keys_.data() + block.low * dim_, keys, dim_, dim_};
    const Matrix dv{dvalues_.data() + block.low * dim_, keys, dim_, dim_};
    const Matrix dk{dkeys_.data() + block.low * dim_, keys, dim_, dim_};
    const Matrix dq{dqueries_.data() + block.first * dim_, rows, dim_, dim_};
    matmul(shared_.single, p, true, d, false, dv, true);
    matmul(shared_.single, d, false, v, true, ds, false);
    for (int64_t r = 0; r < rows; ++r) score_gradient(r, keys);
    matmul(shared_.single, ds, false, k, false, dq, false);
    matmul(shared_.single, ds, true, q, false, dk, true);
  }

  // A row of dP becomes dS, of the scores before scale and softcap.
  void score_gradient(int64_t r, int64_t keys) {
    const float* p = weights_.data() + r * keys;
    float* d = dweights_.data() + r * keys;
    double sum = 0;
    for (int64_t t = 0; t < keys; ++t) sum += static_cast<double>(p[t]) * d[t];
    const auto mean = static_cast<float>(sum);
    for (int64_t t = 0; t < keys; ++t) d[t] = p[t] * (d[t] - mean) * attention_.scale;
    if (capped_.empty()) return;
    const float* capped = capped_.data() + r * keys;
    for (int64_t t = 0; t < keys; ++t) {
      const float share = capped[t] / attention_.softcap;
      d[t] *= 1 - share * share;
    }
  }

  // The gradient by a head before norm and rotation, where x has it; d is overwritten.
  void turn_back(const std::vector<float>& norm, const float* x, std::vector<float>& d,
                 float* out) {
    const bool last = attention_.norm_last && !norm.empty();
    if (last) {
      rotated_.resize(d.size());
      for (int64_t p = 0; p < shared_.length; ++p) {
        std::copy_n(x + p * width_, dim_, rotated_.data() + p * dim_);
      }
      rotate_head(attention_, shared_.kernels, shared_.rope, shared_.length, rotated_.data());
      unnormalised_.assign(d.size(), 0.0F);
      for (int64_t p = 0; p < shared_.length; ++p) {
        norm_back(norm, rotated_.data() + p * dim_, d.data() + p * dim_,
                  unnormalised_.data() + p * dim_);
      }
      d.swap(unnormalised_);
    }
    rotate_head(attention_, shared_.kernels, shared_.inverse, shared_.length, d.data());
    for (int64_t p = 0; p < shared_.length; ++p) {
      const float* from = d.data() + p * dim_;
      float* to = out + p * width_;
      if (norm.empty() || last) {
        std::copy_n(from, dim_, to);
      } else {
        std::fill_n(to, dim_, 0.0F);
        norm_back(norm, x + p * width_, from, to);
      }
    }
  }

  void norm_back(const std::vector<float>& norm, const float* x, const float* dy, float* dx) const {
    norm_gradient(x, norm.data(), dy, dim_, attention_.norm_epsilon, false, dx);
  }

  Shared& shared_;
  const AttentionNode& attention_;
  int64_t dim_, width_;
  std::vector<float> queries_, keys_, dqueries_, dkeys_, dvalues_;  // [length][head_dim]
  std::vector<float> weights_, dweights_, capped_;                  // of a block
  std::vector<float> rotated_, unnormalised_;  // of a head whose norm comes last
};

}  // namespace

void attention_backward(runtime::ThreadPool& pool, const AttentionNode& attention,
                        int64_t sequences, int64_t length, const float* qkv, const float* dout,
                        float* dqkv) {
  const runtime::HeadLayout& head = attention.head;
  Shared shared(attention, length);
  pool.parallel_for(sequences * head.kv_heads, [&](int64_t begin, int64_t end, int) {
    HeadGradient gradient(shared);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit / head.kv_heads * length;
      gradient.run(qkv + first * head.width(), dout + first * head.heads * head.head_dim,
                   unit % head.kv_heads, dqkv + first * head.width());
    }
  });
}

}  // namespace nibble::quant
