//! temporary
use std::path::PathBuf;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "data".into()));
    let port: u16 = args.next().unwrap_or_else(|| "5672".into()).parse()?;
    let settings = leveret::node::Settings {
        data_dir: dir,
        listeners: vec![([127, 0, 0, 1], port).into()],
        metrics: Some(([127, 0, 0, 1], port + 10000).into()),
        default_user: "guest".into(),
        default_pass: "guest".into(),
        default_tags: vec!["administrator".into()],
        default_vhost: "/".into(),
        loopback_users: vec!["guest".into()],
        connections_max: None,
        session: Default::default(),
        queue_defaults: Default::default(),
        memory_limit_bytes: 12 << 30,
        disk_free_limit_bytes: 50 << 20,
        segment_bytes: 64 << 20,
        snapshot_every_bytes: 256 << 20,
        names: leveret::http::Names { node: "n".into(), cluster: "c".into(), version: "4.2.1".into(), product: "RabbitMQ".into() },
    };
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    rt.block_on(async {
        let running = leveret::node::Running::start(settings).await?;
        println!("Server startup complete");
        tokio::signal::ctrl_c().await?;
        running.stop().await;
        Ok(())
    })
}
