//! vminfod; under the name `vminfo`, today's client tool. See `vminfod help`.

fn main() -> std::process::ExitCode {
    vminfod::cli::main()
}
