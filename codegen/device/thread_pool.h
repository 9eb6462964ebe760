// Threads for the parallel loops of CPU kernels.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace graphopt {

class ThreadPool {
public:
    // threads: how many work, the caller among them; 0 takes every core that the process may use.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Call work(0) to work(tasks - 1), and return when all are done; false if one returned false.
    bool run(int tasks, const std::function<bool(int)>& work);

private:
    void serve(int worker);
    // The tasks of a worker, the caller being the first: every threads()-th.
    void take_part(int worker);

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable begun_;
    // A run: written by the caller before it counts `run_` up, read by the workers after.
    const std::function<bool(int)>* work_ = nullptr;
    int tasks_ = 0;
    std::atomic<bool> good_{true};
    std::atomic<int> busy_{0};
    std::atomic<uint64_t> run_{0};
    std::atomic<bool> stop_{false};
};

}  // namespace graphopt
