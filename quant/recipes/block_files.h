// Finished blocks in files, so that quantizing that was killed goes on where it was: one .nib a
// block in a folder, each written whole or not at all, with check sums.
#pragma once

#include <optional>
#include <string>

#include "quant/recipes/quantize_model.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

class BlockFiles : public BlockStore {
 public:
  // Makes the folder. Throws Error when it cannot.
  BlockFiles(std::string folder, runtime::ThreadPool& pool);
  // A file that is damaged or of other content counts as none.
  std::optional<BlockOutcome> load(size_t block) override;
  void save(size_t block, const BlockOutcome& outcome) override;

 private:
  std::string path(size_t block) const;
  std::string folder_;
  runtime::ThreadPool& pool_;
};

}  // namespace nibble::quant
