// Owns desktop notifications: one an update, and what a click on one does.

const PAGE = "popup.html";

chrome.notifications.onClicked.addListener((id) => {
  chrome.notifications.clear(id);
  chrome.tabs.create({ url: PAGE });
});

export async function notify({ title, text }) {
  await chrome.notifications.create({ type: "basic", iconUrl: "icons/128.png", title, message: text });
}
