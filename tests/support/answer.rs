//! Answers as they stand on the wire, to be compared byte for byte.

use super::Holdover;

impl Holdover {
    /// Everything that is answered to one request, without the date.
    pub(crate) async fn answer(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
        let mut client = self.connect().await;
        let headers: Vec<_> = headers.iter().copied().chain([("Connection", "close")]).collect();
        client.request(method, path, &headers, "").await;
        let mut all = Vec::new();
        while let Some(bytes) = client.raw().await {
            all.extend_from_slice(&bytes);
        }
        let all = String::from_utf8(all).expect("answers of ours are text");
        all.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("date:")).collect()
    }
}
